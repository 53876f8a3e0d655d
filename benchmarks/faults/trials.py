"""Runs with a fault on their disk, and what comes of them when they go on without it.

Every trial is two processes: one that the fault hits, one that resumes.
"""

import errno
import json
import multiprocessing.connection
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.faults import disk, protocols
from benchmarks.faults.processes import context, settle_down
from gpt2ft.system import durable

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)

ONE_AT_A_TIME = threading.Lock()


def stops(operations):
    """Stopped before each operation, and within each that can be half done."""
    for at, name in enumerate(operations):
        yield disk.Fault(at)
        if disk.can_be_torn(name):
            yield disk.Fault(at, torn=True)


def failures(operations):
    """Each operation failing with each error, writes also after half of them."""
    for at, name in enumerate(operations):
        for number in ERRORS:
            yield disk.Fault(at, number)
            if name in disk.WRITES:
                yield disk.Fault(at, number, torn=True)


def without_faults(protocol):
    """Names of the operations of a run, and its final hash."""
    with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as place:
        status = _process(protocol, place, _note_name)
        assert status == 0, _text(place, "error")
        return _text(place, "operations").split(), _result(place)[1]


def outcomes(protocol, all_faults, expected):
    """How many trials ended in which way; "" is right."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return Counter(pool.map(lambda fault: outcome(protocol, fault, expected), all_faults))


def outcome(protocol, fault, expected):
    """A run that the fault hits, then one that goes on; returns what is wrong, "" if nothing."""
    with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as place:
        status = _process(protocol, place, fault)
        if fault.what == "stop":
            if status != -signal.SIGKILL:
                return f"was to be killed, exit {status}"
        elif status != 1 or f"OSError {fault.what} " not in _text(place, "error"):
            return "the error was not said"
        committed = max(map(int, _text(place, "committed").split()), default=0)
        if _process(protocol, place, None):
            return f"cannot go on: {_text(place, 'error').split()[0]}"
        start, digest = _result(place)
        if start < committed:
            return "went on from an older step than the last committed"
        return "" if digest == expected else "ended with other weights"


def recorded(protocol, *, without=None):
    """What a run did to its disk, on which `without`, an operation, did nothing."""
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as place:
        process = context.Process(target=_record, args=(protocol, place, without, sender))
        process.start()
        record = receiver.recv()
        process.join()
    return record


def _record(protocol, place, without, sender):
    settle_down()
    record = disk.Record(_run_folder(place).parent)
    if without is not None:
        setattr(durable, without, lambda path: None)
    disk.intercept(record, {*disk.OPERATIONS} - {without})

    def committed(step):
        record.committed = step

    protocols.run(protocol, _run_folder(place), committed)
    record.points.append((len(record.effects), "the end", record.committed))
    sender.send(record)


def lost(protocol, record, state, history):
    """What is wrong when a run goes on from that state of its disk, "" if nothing."""
    committed, tree = state
    with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as place:
        disk.put_on_disk(tree, record.root, Path(place))
        train_state = protocols.make_state()
        try:
            protocols.PROTOCOLS[protocol][1](Path(place, "run"), train_state)
        except Exception as error:
            return f"cannot go on: {type(error).__name__}"
    if train_state.step < committed:
        return "went on from an older step than the last committed"
    same = protocols.fingerprint(train_state) == history[train_state.step]
    return "" if same else "went on with another state"


def _run_folder(place):
    disk = Path(place, "disk")
    disk.mkdir(exist_ok=True)
    return disk / "run"


def resumed_everywhere(protocol):
    """Stopped after each step by saving there, and resumed: how many ended in which way."""
    save, resume = protocols.PROTOCOLS[protocol]
    expected, results = protocols.history()[protocols.STEPS], Counter()
    data = protocols.make_data()
    for stop in range(1, protocols.STEPS):
        with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as place:
            state = protocols.make_state()
            list(protocols.steps(state, data, stop))
            save(Path(place), state)
            torch.manual_seed(1000 + stop)  # whatever is drawn before resuming
            state = protocols.make_state(seed=stop)
            resume(Path(place), state)
            list(protocols.steps(state, data))
            same = protocols.fingerprint(state) == expected
            results["" if same else "ended with other weights"] += 1
    return results


def damaged(protocol, expected):
    """Each file of the newest checkpoint deleted, cut, or with a bit flipped; then it goes on."""
    with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as finished:
        assert _process(protocol, finished, None) == 0
        files = [path for path in Path(finished, "disk").rglob("*") if path.is_file()]
        newest = max(files, key=lambda path: path.stat().st_mtime_ns).parent
        names = [path.relative_to(finished) for path in files if path.parent == newest]
        cases = [(name, how) for name in names for how in ("delete", "truncate", "flip a bit")]

        def outcome(case):
            with tempfile.TemporaryDirectory(prefix="gpt2ft-trial-") as place:
                shutil.copytree(Path(finished, "disk"), Path(place, "disk"))
                damage(Path(place, case[0]), case[1])
                if _process(protocol, place, None):
                    return f"cannot go on: {_text(place, 'error').split()[0]}"
                start, digest = _result(place)
                if start < protocols.STEPS - protocols.SAVE_STEPS:
                    return "went on from an older step than the one before"
                return "" if digest == expected else "ended with other weights"

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return Counter(pool.map(outcome, cases))


def damage(path, how):
    """Delete a file, cut its last byte off, or flip a bit in its middle."""
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        os.truncate(path, path.stat().st_size - 1)
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


def _note_name(number, name, arguments, perform):
    with open("operations", "a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return perform()


def _process(protocol, place, fault):
    """Exit status of a run with that fault."""
    process = context.Process(target=_run, args=(protocol, place, fault))
    with ONE_AT_A_TIME:  # starting one also asks how the others ended, which can be asked once
        process.start()
    multiprocessing.connection.wait([process.sentinel])
    with ONE_AT_A_TIME:
        process.join()
    return process.exitcode


def _run(protocol, place, fault):
    os.chdir(place)
    settle_down()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if fault is not None:
        disk.intercept(fault)

    def committed(step):
        with open("committed", "a", encoding="utf-8") as file:
            file.write(f"{step}\n")

    try:
        result = protocols.run(protocol, _run_folder(place), committed)
    except Exception as error:
        text = f"{type(error).__name__} {getattr(error, 'errno', '')} {error}"
        Path("error").write_text(text, encoding="utf-8")
        raise SystemExit(1) from None
    Path("result").write_text(json.dumps(result), encoding="utf-8")


def _text(place, name):
    path = Path(place, name)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _result(place):
    return json.loads(_text(place, "result"))
