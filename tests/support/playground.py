"""The playground's server in this process, and calls of it over a real socket."""

import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading

import uvicorn

from benchmarks.faults.processes import ROOT
from gpt2ft.generation.config import Sampling
from gpt2ft.generation.ready_model import ReadyModel
from gpt2ft.playground.served_model import ServedModel
from gpt2ft.playground.server import Playground, listen

JSON = {"Content-Type": "application/json"}


def served_model(model, tokenizer, name="tiny"):
    """A model that is there already."""
    served = ServedModel(name, "", lambda _: ReadyModel(name, model.eval(), tokenizer))
    served.load()
    return served


class Server:
    """Where the server is, and calls of it."""

    def __init__(self, port):
        self.port = port

    def call(self, path, body=None, method=None, **headers):
        """Status, headers and body of an answer; underscores of header names become dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named = {**JSON, **named}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, answer.headers, answer.read()

    def write(self, **wanted):
        """The events of a text."""
        status, _, body = self.call("/api/write", wanted)
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]

    @contextlib.contextmanager
    def reading(self, **wanted):
        """An answer that is being written, as a file of lines; `leave` closes its connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", "/api/write", json.dumps(wanted), JSON)
        with contextlib.closing(connection):
            answer = connection.getresponse()
            answer.leave = connection.close
            yield answer


@contextlib.contextmanager
def serving(models, *, token=None, sampling=None, state=dict):
    """A running server of these `ServedModel`s."""
    app = Playground(models, sampling or Sampling(), state).app(token)
    with listen("127.0.0.1", None, first=21000) as listener:
        settings = {"log_config": None, "lifespan": "off", "http": "h11", "loop": "asyncio"}
        server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Server(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def start(*flags):
    """A running `generate.py --web`, and the link that it prints."""
    process = subprocess.Popen(
        [sys.executable, "generate.py", "--web", "--no_browser", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    link = re.search(r"http://\S+", line)
    assert link, line + process.stderr.read()
    return process, link[0]
