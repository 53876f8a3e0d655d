"""The project's commands in processes of their own, each forked after one import of the libraries.

A fresh interpreter imports torch, transformers and datasets for 5 seconds; these start in a moment,
and are otherwise what a user starts: own process, real signals, real exit status.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from gpt2ft.cli import main as cli
from gpt2ft.system.terminal import silence_libraries

ROOT = Path(__file__).parent.parent.parent

os.environ["OMP_NUM_THREADS"] = "1"  # a thread pool would not survive the fork
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the program has it for several processes
os.environ["PYTHONPATH"] = str(ROOT)  # the server does not inherit sys.path
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["benchmarks.faults.preloaded"])


@dataclass(frozen=True)
class Done:
    """What a command left behind: exit status (-N for signal N), and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(script, *arguments, cwd, input="", env=(), prepare=None, timeout=120):
    """A command from start to end. `prepare()` is called in its process first."""
    with Started(script, *arguments, cwd=cwd, input=input, env=env, prepare=prepare) as process:
        return process.finish(timeout)


class Started:
    """A command that runs; its output grows in two files."""

    def __init__(self, script, *arguments, cwd, input="", env=(), prepare=None):
        self._folder = tempfile.TemporaryDirectory(prefix="gpt2ft-process-")
        streams = [Path(self._folder.name) / name for name in ("in", "out", "err")]
        for path in streams:
            path.touch()
        _, self._out, self._err = streams
        data = input if isinstance(input, bytes) else input.encode()
        streams[0].write_bytes(data)
        arguments = (script, arguments, str(cwd), streams, dict(env), prepare)
        self.process = context.Process(target=_command, args=arguments)
        self.process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        self._folder.cleanup()

    def kill(self, number):
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait_for(self, text, timeout=60):
        """Wait until the text is on standard output; returns all that is there."""
        end = time.monotonic() + timeout
        while text not in (shown := self._shown()):
            ended = self.process.exitcode
            if ended is not None or time.monotonic() > end:
                raise AssertionError(f"no {text!r} in {shown}, exit {ended}, {self._stderr()}")
            time.sleep(0.005)
        return shown

    def finish(self, timeout=120):
        """Wait for the end."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise AssertionError(f"still running: {self._shown()}")
        out = self._out.read_text(encoding="utf-8")
        return Done(self.process.exitcode, out, self._stderr())

    def _stderr(self):
        return self._err.read_text(encoding="utf-8")

    def _shown(self):
        return self._out.read_text(encoding="utf-8", errors="replace")  # perhaps half a character


def settle_down():
    """In a new process: one thread, and nothing that outlives its being killed."""
    import torch
    from tqdm import tqdm

    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # else a semaphore, which a killed process leaves behind
    silence_libraries()


def _command(script, arguments, cwd, streams, env, prepare):
    """In the new process: what a shell does before it starts a program, then the program."""
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND
        os.dup2(os.open(path, flags), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    settle_down()
    if prepare is not None:
        prepare()
    if script == "gpt2ft":  # the installed command
        sys.exit(cli.main())
    runpy.run_path(str(ROOT / script), run_name="__main__")
