"""pytest tests/system/test_hub.py"""

import http.server
import socket
import threading
import time

import pytest

from gpt2ft.system.hub import answers, go_offline_if_unreachable, is_offline


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve(monkeypatch):
    """A server on this machine that answers as told."""
    servers = []

    def start(status, delay=0.0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                time.sleep(delay)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "offline"), [(200, False), (429, False), (403, True)])
def test_what_an_answer_means(status, offline, serve):
    """403 is some proxy's; 429 is the hub, only busy."""
    serve(status)
    assert go_offline_if_unreachable() == is_offline() == offline


def test_no_answer_in_time(serve):
    serve(200, delay=1.5)
    start = time.monotonic()
    assert go_offline_if_unreachable(seconds=0.3)
    assert time.monotonic() - start < 1.0


def test_nobody_there(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert go_offline_if_unreachable()


def test_what_the_user_has_said_is_not_asked_again(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert not go_offline_if_unreachable()


def test_a_refused_connection_is_an_answer_at_once(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        start = time.monotonic()
        assert not answers(seconds=20.0)
        assert time.monotonic() - start < 5.0
