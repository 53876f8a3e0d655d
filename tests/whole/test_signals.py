"""Real signals to real processes, in each phase of a run: pytest tests/whole/test_signals.py"""

import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.faults.processes import ROOT, Started, run
from gpt2ft import loop
from gpt2ft.checkpoint import checkpoints as checkpoint
from gpt2ft.run import build as building
from gpt2ft.run import finetune, texts
from gpt2ft.run import observe as observation
from gpt2ft.system import durable, signals
from tests.support.tiny import byte_tokenizer, tiny_gpt2

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FLAGS = (
    *("--model_name_or_path", "model", "--train_file", "own.txt", "--output_dir", "out"),
    *("--block_size", "32", "--per_device_train_batch_size", "4", "--max_steps", "6"),
    *("--save_steps", "2", "--eval_steps", "3", "--learning_rate", "0.01", "--precision", "fp32"),
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A model with dropout and a text."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_gpt2(dropout=0.1).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    (folder / "own.txt").write_text("a line of text, and another one\n" * 60, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def straight(inputs):
    """Weights and moments of the run that is never stopped."""
    assert run("train.py", *FLAGS, cwd=inputs).returncode == 0
    expected = results(inputs / "out")
    shutil.rmtree(inputs / "out")
    return expected


@pytest.fixture
def place(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return tmp_path


def results(out):
    files = (out / "model.safetensors", out / "checkpoint-6" / "optimizer.safetensors")
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def in_process(change, room, *rest):
    """What the new process is to do first; a module goes there by its name."""
    return functools.partial(change, room.__name__, *rest)


def await_signal(room, name, skip=0, forever=False):
    """At the call after `skip` others, wait for the signal, and perhaps on after it."""
    room = sys.modules[room]
    original, calls = getattr(room, name), []

    @functools.wraps(original)
    def waits(*arguments, **options):
        calls.append(1)
        if len(calls) == skip + 1:
            listening = signal.getsignal(signal.SIGTERM)
            Path("reached").touch()
            while signal.getsignal(signal.SIGTERM) == listening:
                time.sleep(0.001)
            Path("signalled").touch()
            time.sleep(60 if forever else 0)
        return original(*arguments, **options)

    setattr(room, name, waits)


# Phase: where it waits for the signal, the step that is kept, and what the last line says.
PHASES = {
    "tokenising": ((texts, "tokenize"), 0, "nothing is lost"),
    "loading": ((building, "_tokenizer_and_model"), 0, "nothing is lost"),
    "the first evaluation": ((observation, "score"), 0, "after step 0; nothing is lost"),
    "a step": ((loop, "train_step", 2), 3, "after step 3; to go on"),
    "a saving": ((durable, "write_tensors"), 2, "after step 2; to go on"),
    "an evaluation": ((observation, "score", 1), 3, "after step 3; to go on"),
    "sampling": ((observation, "extend", 1), 3, "after step 3; to go on"),
    "the last saving": ((checkpoint, "save_checkpoint", 2), 6, "after step 6; to go on"),
    "the last evaluation": ((observation, "score", 2), 6, "after step 6; to go on"),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_loses_nothing(phase, number, place, straight):
    where, step, last_line = PHASES[phase]
    prepare = in_process(await_signal, *where)
    with Started("train.py", *FLAGS, cwd=place, prepare=prepare) as process:
        wait_for(place / "reached")
        process.kill(number)
        done = process.finish(60)
    assert (done.returncode, done.stderr) == (128 + number, "")
    shown = done.stdout.splitlines()[-1]
    assert shown.startswith(str(signals.Stopped(number))) and last_line in shown
    saved = checkpoint.checkpoint_folders(place / "out")
    assert (saved[0].name if saved else "") == (f"checkpoint-{step}" if step else "")
    assert not list((place / "out").glob(".saving-*"))
    go_on(place, straight)


def go_on(place, straight):
    """As the last line says, and with the same result; an evaluation that was stopped is made."""
    ways = ["--resume"] if checkpoint.checkpoint_folders(place / "out") else []
    done = run("train.py", *FLAGS, *ways, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert results(place / "out") == straight
    records = (place / "out" / "metrics.jsonl").read_text().splitlines()
    assert sum('"eval_loss"' in record for record in records) == 3


@pytest.mark.parametrize("number", SIGNALS)
def test_when_the_model_is_being_put_in_its_place_the_run_is_over(number, place, straight):
    prepare = in_process(await_signal, checkpoint, "save_finished")
    with Started("train.py", *FLAGS, cwd=place, prepare=prepare) as process:
        wait_for(place / "reached")
        process.kill(number)
        done = process.finish(60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("generate: python generate.py")
    assert results(place / "out") == straight


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", ["a step", "a saving", "an evaluation"])
def test_a_second_signal_ends_at_once_and_corrupts_nothing(phase, number, place, straight):
    """The process waits on after the first one, as in a step or a save that takes long."""
    room, name, *skip = PHASES[phase][0]
    prepare = in_process(await_signal, room, name, *(skip or [0]), True)
    with Started("train.py", *FLAGS, cwd=place, prepare=prepare) as process:
        wait_for(place / "reached")
        process.kill(number)
        wait_for(place / "signalled")
        process.kill(number)
        assert process.finish(60).returncode == -number
    go_on(place, straight)


def listens(pid):
    """Whether a process has a handler for SIGTERM, which Python itself has not."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    caught = int(re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_libraries_are_loaded(number, place):
    """In a fresh interpreter, at several moments after it began to listen."""
    for delay in (0.0, 1.0) if number == signal.SIGINT else (0.5,):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *FLAGS],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        while not listens(process.pid):
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (128 + number, "")
        assert out == (f"{signals.Stopped(number)}; nothing is lost, give the same command again\n")
    assert not (place / "out").exists()


def test_a_run_under_nohup_goes_on_when_the_terminal_hangs_up(place, straight):
    prepare = in_process(under_nohup, loop, "train_step")
    with Started("train.py", *FLAGS, cwd=place, prepare=prepare) as process:
        wait_for(place / "reached")
        process.kill(signal.SIGHUP)
        (place / "hung up").touch()
        assert process.finish(60).returncode == 0
    assert results(place / "out") == straight


def test_a_hang_up_that_is_ignored_does_not_end_a_save_after_another_signal(place, straight):
    prepare = in_process(ignoring_hang_ups, durable, "write_tensors")
    with Started("train.py", *FLAGS, cwd=place, prepare=prepare) as process:
        wait_for(place / "reached")
        process.kill(signal.SIGTERM)
        wait_for(place / "signalled")
        process.kill(signal.SIGHUP)
        (place / "hung up").touch()
        done = process.finish(60)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert done.stdout.splitlines()[-1].startswith("stopped by SIGTERM after step 2; to go on")
    go_on(place, straight)


def ignoring_hang_ups(room, name):
    """The first call waits for SIGTERM, and after that for the hang-up."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    original = getattr(sys.modules[room], name)

    def waits(*arguments, **options):
        wait_for(Path("hung up"))
        return original(*arguments, **options)

    setattr(sys.modules[room], name, waits)
    await_signal(room, name)


def under_nohup(room, name):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    room = sys.modules[room]
    original = getattr(room, name)

    def waits(*arguments, **options):
        Path("reached").touch()
        while not Path("hung up").exists():
            time.sleep(0.001)
        return original(*arguments, **options)

    setattr(room, name, waits)


def wait_for(path, timeout=60):
    end = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.002)


def test_the_program_listens_and_the_library_does_not():
    """Handlers come back afterwards; whoever calls `finetune` keeps theirs, until they listen."""
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals.listening() as stop:
        assert [signal.getsignal(number) for number in SIGNALS] == [stop.ask] * 2
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert "signal" not in vars(finetune) and not hasattr(finetune, "listening")


def test_a_signal_has_the_name_that_people_know():
    assert str(signals.Stopped(signal.SIGINT)) == "stopped by Ctrl-C"
    assert str(signals.Stopped(signal.SIGTERM)) == "stopped by SIGTERM"
