"""A stand-in of the Hugging Face hub: a real HTTP server that takes a model as the hub does.

It answers the addresses that huggingface_hub asks for when it makes a repository and a commit:
large files by the protocol of git LFS, small ones in the commit itself. What it was sent is kept.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field

import yaml

USER = "ann"
TOKEN = "hf_a_token_that_may_write"
READ_ONLY = "hf_a_token_that_may_read"


@dataclass
class Repository:
    private: bool
    files: dict = field(default_factory=dict)
    """Of the newest commit: name to bytes."""
    commits: list = field(default_factory=list)


class Hub(http.server.ThreadingHTTPServer):
    """The server, and what it was sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories = {}
        self.blobs = {}
        self.asked = []
        self.fails = set()
        """Parts of addresses that are answered by 500."""
        self.received = b""
        """All bodies, one after the other."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self):
        """Variables with which huggingface_hub asks this hub, logged in."""
        return {
            **{"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"},
            "HF_HUB_DISABLE_XET": "1",  # plain git LFS
        }


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer("GET", b"")

    def do_HEAD(self):
        self._answer("HEAD", b"")

    def do_POST(self):
        self._answer("POST", self._body())

    def do_PUT(self):
        self._answer("PUT", self._body())

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, method, body):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{method} {path}")
        hub.received += body
        if any(part in path for part in hub.fails):
            return self._send(500, {"error": "out of order"})
        if path.startswith("/lfs/"):
            hub.blobs[path.removeprefix("/lfs/")] = body
            return self._send(200, {})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_ONLY):
            return self._send(401, {"error": "Invalid user token."})
        values = json.loads(body) if body and not path.endswith("/commit/main") else {}
        if path == "/api/validate-yaml":
            return self._send(*_validated(values["content"]))
        if token == READ_ONLY and method == "POST":
            return self._send(403, {"error": "this token has no write access"})
        if path == "/api/repos/create":
            return self._create(values)
        found = re.fullmatch(r"/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(|/.*)", path)
        repository = found and hub.repositories.get(found[1])
        if repository is None:
            return self._send(404, {"error": "Repository not found"})
        self._of_repository(found[1], repository, found[2], values, body)

    def _create(self, values):
        owner = values.get("organization") or USER
        name = f"{owner}/{values['name']}"
        if owner != USER:
            return self._send(403, {"error": f"you may not write to {owner}"})
        if name in self.server.repositories:
            where = {"url": f"{self.server.url}/{name}", "name": name}
            return self._send(409, {"error": "You already created this model repo", **where})
        private = bool(values.get("private")) or values.get("visibility") == "private"
        self.server.repositories[name] = Repository(private)
        self._send(200, {"url": f"{self.server.url}/{name}", "name": name})

    def _of_repository(self, name, repository, rest, values, body):
        if rest == "":
            facts = {"id": name, "sha": "0" * 40, "private": repository.private, "siblings": []}
            return self._send(200, {**facts, "tags": [], "downloads": 0, "likes": 0})
        if rest == "/preupload/main":
            modes = [
                {
                    **{"path": file["path"], "shouldIgnore": False},
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                }
                for file in values["files"]
            ]
            return self._send(200, {"files": modes})
        if rest == "/info/lfs/objects/batch":
            objects = [self._upload_of(entry) for entry in values["objects"]]
            return self._send(200, {"transfer": "basic", "objects": objects})
        if rest == "/commit/main":
            repository.commits.append(self._commit(repository, body))
            facts = {"commitUrl": f"{self.server.url}/{name}/commit/1", "commitOid": "1" * 40}
            return self._send(200, facts)
        self._send(404, {"error": f"{rest} is not known here"})

    def _upload_of(self, entry):
        href = f"{self.server.url}/lfs/{entry['oid']}"
        if entry["oid"] in self.server.blobs:
            return entry
        return {**entry, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, repository, body):
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                repository.files[value["path"]] = base64.b64decode(value["content"])
                self.server.received += repository.files[value["path"]]
            elif line["key"] == "lfsFile":
                blob = self.server.blobs[value["oid"]]
                assert hashlib.sha256(blob).hexdigest() == value["oid"]
                repository.files[value["path"]] = blob
            else:
                assert line["key"] == "header"
        return next(line["value"]["summary"] for line in lines if line["key"] == "header")

    def _send(self, status, values):
        body = b"" if self.command == "HEAD" else json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if "error" in values:
            self.send_header("X-Error-Message", values["error"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _validated(card):
    """What the hub says of a card's metadata."""
    try:
        values = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])
        assert isinstance(values, dict) and values["license"] != "none-of-them"
    except (AssertionError, TypeError, KeyError, yaml.YAMLError) as error:
        return 400, {"errors": [{"message": f'"license" must be one of a list {error}'}]}
    return 200, {"errors": [], "warnings": []}


@contextlib.contextmanager
def running_hub():
    """A hub that runs until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
