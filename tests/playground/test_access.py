"""Who may call the playground: pytest tests/playground/test_access.py"""

import json

import pytest

from gpt2ft.playground.access import HEADERS
from tests.support.playground import serving


@pytest.fixture(scope="module")
def server():
    with serving([], state=lambda: {"models": []}) as server:
        yield server


@pytest.fixture(scope="module")
def server_with_token():
    with serving([], token="secret", state=lambda: {"models": []}) as server:
        yield server


def test_this_machine_may_call(server):
    for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", f"[::1]:{server.port}"):
        status, _, body = server.call("/api/state", Host=host)
        assert (status, json.loads(body)) == (200, {"models": []})
    assert server.call("/")[0] == 200 and server.call("/page/page.js")[0] == 200
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec_Fetch_Site": "same-origin"}
    assert server.call("/api/state", **own)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "127.0.0.1:not-a-port"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/api/state", None), ("/api/write", {"prompt": "a"})])
def test_others_are_refused(server, path, body, headers):
    status, _, answer = server.call(path, body, **headers)
    assert status == 403 and json.loads(answer)["error"]


def test_a_link_elsewhere_may_open_the_page(server):
    """But no page may read it."""
    outside = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert server.call("/", **outside)[0] == 200
    assert server.call("/", **{**outside, "Sec_Fetch_Mode": "no-cors"})[0] == 403
    assert server.call("/page/page.js", **outside)[0] == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_taken(server, kind):
    """What a form of any page may send without asking is none."""
    assert server.call("/api/write", {"prompt": "a"}, Content_Type=kind)[0] == 415


def test_other_methods_and_addresses_are_refused(server):
    assert server.call("/api/write")[0] == 405
    assert server.call("/api/state", {}, method="OPTIONS")[0] == 405
    for path in ("/api/none", "/page/../server.py", "/page/%2e%2e/server.py", "/page/none.js"):
        assert server.call(path)[0] == 404, path


@pytest.mark.parametrize("path", ["/", "/page/page.css", "/api/state", "/api/none"])
def test_each_answer_has_the_headers(server, path):
    _, headers, _ = server.call(path)
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_refusal_has_the_headers_too(server):
    _, headers, _ = server.call("/api/state", Host="evil.example")
    assert {name: headers[name] for name in HEADERS} == HEADERS


def test_with_a_token_the_page_and_each_call_need_it(server_with_token):
    call = server_with_token.call
    assert call("/")[0] == call("/?token=other")[0] == call("/api/state")[0] == 403
    assert call("/api/state?token=secret")[0] == 403  # an address may be kept, a header is not
    assert call("/api/state", Authorization="Bearer other")[0] == 403
    assert call("/api/state", Authorization="Bearer secrét".encode())[0] == 403
    assert call("/?token=secret")[0] == call("/page/page.js")[0] == 200
    assert call("/api/state", Authorization="Bearer secret")[0] == 200


def test_with_a_token_any_host_is_called_but_from_its_own_pages(server_with_token):
    told = {"Authorization": "Bearer secret", "Host": "my-machine:7474"}
    call = server_with_token.call
    assert call("/api/state", **told)[0] == 200
    assert call("/api/state", **told, Origin="http://my-machine:7474")[0] == 200
    assert call("/api/state", **told, Origin="http://evil.example")[0] == 403
