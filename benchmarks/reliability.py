"""The proofs that no run is lost, in full, and against two protocols that lose runs.

    python benchmarks/reliability.py

prints a table for the README: of each kind of fault how many trials there were, and how many lost
the run, went on from an older step than the last committed, or ended with other weights.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="gpt2ft-reliability-")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from benchmarks.faults import disk, protocols, trials
from benchmarks.faults.processes import ROOT, settle_down

SUBJECTS = ("ours", "torch.save in place", "newest folder")
STATES_AT_EACH_POINT = 20


def power_failures(protocol, history):
    """How many states of the disk that a power failure may leave end in which way."""
    record = trials.recorded(protocol)
    states = disk.crash_states(record, samples=STATES_AT_EACH_POINT)
    return Counter(trials.lost(protocol, record, state, history) for state in states)


def tests(*selection):
    """Trials that the suite makes, one a test."""
    command = [sys.executable, "-m", "pytest", "-q", *selection]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", last_line(done))}
    return Counter({"": counts.get("passed", 0), "failed": counts.get("failed", 0)})


def last_line(done):
    return done.stdout.strip().rpartition("\n")[2]


def cell(outcomes):
    """`trials / failures`, and on standard error why."""
    for reason, count in outcomes.items():
        if reason:
            print(f"    {count:>4} {reason}", file=sys.stderr)
    return f"{sum(outcomes.values())} / {sum(outcomes.values()) - outcomes['']}"


def rows():
    """Name of the fault, and the outcomes with each protocol."""
    without_faults = {name: trials.without_faults(name) for name in (*SUBJECTS, "finetune")}
    history = protocols.history()

    def each(function):
        return [function(name, *without_faults[name]) for name in SUBJECTS]

    yield (
        "stopped after each step, and resumed",
        each(lambda name, *_: trials.resumed_everywhere(name)),
    )
    yield (
        "killed at each operation on the disk, and in the midst of writes",
        each(lambda name, ops, end: trials.outcomes(name, trials.stops(ops), end)),
    )
    yield (
        "ENOSPC, EIO, EDQUOT at each operation",
        each(lambda name, ops, end: trials.outcomes(name, trials.failures(ops), end)),
    )
    yield (
        "states of the disk that a power failure may leave",
        each(lambda name, *_: power_failures(name, history)),
    )
    yield (
        "each file of the newest checkpoint deleted, cut, a bit flipped",
        each(lambda name, _, end: trials.damaged(name, end)),
    )
    operations, end = without_faults["finetune"]
    stops, failures = trials.stops(operations), trials.failures(operations)
    yield (
        "a whole `train.py` run killed at each operation",
        [trials.outcomes("finetune", stops, end)],
    )
    yield "a whole run, errors at each operation", [trials.outcomes("finetune", failures, end)]
    yield (
        "SIGINT and SIGTERM, once and twice, in each phase",
        [tests("tests/whole/test_signals.py")],
    )
    left_out = ["tests/checkpoint/test_checkpoints.py", "-k", "left_out"]
    yield "an item of the state left out, and not noticed", [tests(*left_out)]


def main():
    start = time.monotonic()
    settle_down()  # one thread, as in the trials: more would sum in another order
    print(f"| fault: trials / failures | {' | '.join(SUBJECTS)} |")
    print("|---" * (1 + len(SUBJECTS)) + "|")
    for name, outcomes in rows():
        print(f"... {name}, {time.monotonic() - start:.0f} s", file=sys.stderr)
        cells = [cell(outcome) for outcome in outcomes]
        cells += [""] * (len(SUBJECTS) - len(cells))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\ntorch {torch.__version__}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
