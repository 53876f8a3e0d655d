"""Several processes that train together: each calls a function, and the results come back."""

import json
import os
import tempfile
import traceback
from collections import deque
from pathlib import Path

import torch

from benchmarks.faults.processes import context, settle_down

STORES = deque(maxlen=8)  # of the runs of late; a store ends with its last reference


def together(n, function, *arguments, timeout=60):
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
    """The variables that `torchrun` sets in each of `n` processes of one machine.

    Like its agent, this process keeps their store, so that it survives any of them.
    """
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    STORES.append(store)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    shared |= {"TORCHELASTIC_RUN_ID": "none"}
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
