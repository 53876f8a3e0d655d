"""Several processes that train together: each calls a function, and the results come back."""

import json
import os
import socket
import tempfile
import traceback
from pathlib import Path

from benchmarks.faults.processes import context, settle_down


def together(n, function, *arguments, timeout=120):
    """What `function(*arguments)` returns in each of `n` processes, as `torchrun` starts them.

    The function stands in a module; its result is what JSON can hold. An error of one is raised
    here.
    """
    with tempfile.TemporaryDirectory(prefix="gpt2ft-together-") as folder:
        environments = torchrun_environments(n)
        paths = [Path(folder) / str(rank) for rank in range(n)]
        processes = [
            context.Process(target=_call, args=(environment, path, function, arguments))
            for environment, path in zip(environments, paths, strict=True)
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(timeout)
            assert not any(process.is_alive() for process in processes), "they wait for ever"
            outcomes = [json.loads(path.read_text()) for path in paths]
        finally:
            for process in processes:
                process.kill()
    for outcome in outcomes:
        if "error" in outcome:
            raise AssertionError(outcome["error"])
    return [outcome["result"] for outcome in outcomes]


def torchrun_environments(n):
    """The variables that `torchrun` sets in each of `n` processes of one machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]


def _call(environment, path, function, arguments):
    os.environ.update(environment)
    settle_down()
    try:
        outcome = {"result": function(*arguments)}
    except Exception:
        outcome = {"error": traceback.format_exc()}
    path.write_text(json.dumps(outcome))
