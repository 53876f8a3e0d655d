"""The playground's server over real sockets: pytest tests/playground/test_server.py"""

import contextlib
import http.client
import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from benchmarks.faults.processes import ROOT, run
from gpt2ft.generation.config import Sampling
from gpt2ft.playground.server import LARGEST_BODY, listen
from tests.support.playground import JSON, served_model, serving, start
from tests.support.tiny import tiny_gpt2

ENDLESS = {"max_new_tokens": 100_000}


@pytest.fixture(scope="module")
def server(tokenizer):
    models = [served_model(tiny_gpt2(seed=n), tokenizer, name) for n, name in enumerate("ab")]
    with serving(models, sampling=Sampling(max_new_tokens=8)) as server:
        yield server


def test_a_text_comes_token_by_token(server):
    events = server.write(prompt="Once", seed=1)
    assert "start" in events[0] and "end" in events[-1]
    assert sum(len(event["token"]["ids"]) for event in events[1:-1]) == 8
    assert events[:-1] == server.write(prompt="Once", seed=1)[:-1]
    assert events[:-1] != server.write(prompt="Once", seed=1, model=1)[:-1]


def test_a_line_is_there_as_soon_as_its_token_is(server):
    with server.reading(prompt="Once", settings=ENDLESS) as answer:
        for _ in range(20):
            assert json.loads(answer.readline())


def test_who_goes_away_stops_the_text(server):
    """The next one need not wait for a hundred thousand tokens."""
    for _ in range(3):
        with server.reading(prompt="Once", settings=ENDLESS) as answer:
            answer.readline(), answer.readline()
        events = server.write(prompt="Once", seed=1)
        assert "end" in events[-1]


def test_the_second_waits_and_is_told(server):
    with server.reading(prompt="Once", settings=ENDLESS) as first:
        first.readline(), first.readline()
        with server.reading(prompt="Two") as second:
            assert json.loads(second.readline()) == {"waiting": 1}
            with server.reading(prompt="Three", model=1) as other:  # another model is free
                assert "end" in json.loads(other.readlines()[-1])
            first.leave()
            assert "start" in json.loads(second.readline())


def test_an_error_of_a_text_is_its_last_line(server, capfd):
    events = server.write(prompt="Once", fixed=[5000])
    assert "vocabulary has 257" in events[-1]["error"]
    assert "gpt2ft: error: the text has token 5000" in capfd.readouterr().err
    assert "end" in server.write(prompt="Once")[-1]


def test_alternatives_are_one_line(server):
    status, _, body = server.call("/api/alternatives", {"prompt": "Once", "fixed": [70]})
    assert status == 200 and len(json.loads(body)["alternatives"]) == 10


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ({"prompt": "a", "settings": {"top_p": 3}}, 400),
        ({"prompt": "a", "model": 2}, 400),
        (b'{"settings": {"\\ud800": 1}}', 400),
        ({"prompt": "a", "model": -1}, 400),
        ({"prompt": "a" * LARGEST_BODY}, 413),
    ],
)
def test_what_cannot_be_answered_is_refused(server, body, status):
    got, _, answer = server.call("/api/write", body)
    assert got == status and json.loads(answer)["error"]


def test_what_a_model_writes_is_text_and_nothing_else(tokenizer):
    """ESC and tags leave the server as characters of a JSON string."""
    evil = "\x1b[2J<script>alert(1)</script>\u2028"
    model = tiny_gpt2(n_positions=128).eval()
    with serving([served_model(model, tokenizer)]) as server:
        fixed = tokenizer(evil)["input_ids"]
        _, headers, body = server.call("/api/write", {"prompt": "a", "fixed": fixed})
        assert headers["Content-Type"].startswith("application/x-ndjson")
        assert b"\x1b" not in body and "\u2028".encode() not in body
        start = next(e["start"] for e in map(json.loads, body.splitlines()) if "start" in e)
        assert "".join(piece["text"] for piece in start["fixed"]) == evil


def test_who_does_not_read_does_not_hold_the_model(server, monkeypatch):
    monkeypatch.setattr("gpt2ft.playground.server.SECONDS_TO_READ", 0.5)
    body = json.dumps({"prompt": "", "fixed": [13] * 60_000, "settings": {"max_new_tokens": 2}})
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stalled:
        stalled.connect(("127.0.0.1", server.port))
        head = f"Host: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        size = f"Content-Length: {len(body)}\r\n\r\n"
        stalled.sendall(f"POST /api/write HTTP/1.1\r\n{head}{size}{body}".encode())
        assert "end" in server.write(prompt="Once")[-1]


def test_half_characters_without_end_are_soon_read(server):
    half = server.write(prompt="", fixed=[163] * 10_000)
    assert "end" in half[-1]


def test_a_port_that_is_taken_is_said_or_the_next_is_used():
    with listen("127.0.0.1", None, first=22000) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", None, first=port) as second:
            assert second.getsockname()[1] > port
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port}: .*in use"):
            listen("127.0.0.1", port, first=1)


def post(link, **wanted):
    request = urllib.request.Request(f"{link}api/write", json.dumps(wanted).encode(), JSON)
    return urllib.request.urlopen(request, timeout=60)


def test_the_program_writes_what_it_writes_without_a_page():
    flags = ("--model_name_or_path", "gpt2-mini", "--max_new_tokens", "30", "--top_k", "20")
    process, link = start(*flags, "--seed", "3")
    try:
        with urllib.request.urlopen(f"{link}api/state", timeout=60) as answer:
            told = json.load(answer)
        assert told["models"][0]["name"] == "gpt2-mini" and told["seed"] == 3
        with post(link, prompt="Once upon", seed=3) as answer:
            events = [json.loads(line) for line in answer]
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    written = "".join(event["token"]["text"] for event in events if "token" in event)
    done = run("generate.py", *flags, "--seed", "3", "-p", "Once upon", cwd=ROOT)
    assert done.stdout == f"Once upon{written}\n"


def test_ctrl_c_ends_it_in_the_midst_of_a_text():
    process, link = start("--model_name_or_path", "gpt2-mini")
    with post(link, prompt="Once", settings=ENDLESS) as answer:
        answer.readline(), answer.readline()
        process.send_signal(signal.SIGINT)
        before = time.monotonic()
        with contextlib.suppress(http.client.HTTPException, OSError):
            answer.read()
        _, errors = process.communicate(timeout=20)
    assert time.monotonic() - before < 10
    assert (process.returncode, errors) == (0, "")


def test_other_addresses_have_a_token_in_the_link():
    process, link = start("--model_name_or_path", "gpt2-mini", "--host", "0.0.0.0")
    try:
        assert re.fullmatch(r"http://0\.0\.0\.0:\d+/\?token=[\w-]{32}", link)
        with urllib.request.urlopen(link, timeout=60) as answer:
            assert b"<title>" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(link.partition("?")[0], timeout=60)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert "whoever has the link can use the models" in errors
