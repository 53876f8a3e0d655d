"""Kill processes of a run at random until it is done; its weights are those of a run left alone.

    python benchmarks/elastic.py [TEXT] [--kills 50]

`gpt2-mini` with dropout 0.1, 4 micro-batches a step, fp32, one thread a process, on a text file, or
on the built-in text. First the run in one process, then on 2 and 4, then stopped on 4, on 1, and
finished on 2: their sha256 are printed. Then a run with `--resume auto` on 1 to 4 processes, of
which one is killed (SIGKILL) at a random moment, again and again, each time with another number of
processes, until enough were killed. In the end real `torchrun --max-restarts`, whose workers are
killed likewise.
"""

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.faults.processes import ROOT, Started

STORES = []


def flags(text, steps):
    data = ["--train_file", text] if text else ["--dataset_name", "python-reference"]
    return [
        *("--model_name_or_path", "gpt2-mini", *data, "--block_size", "64", "--dropout", "0.1"),
        *("--per_device_train_batch_size", "2", "--micro_batches_per_step", "4"),
        *("--precision", "fp32", "--threads", "1", "--max_steps", str(steps), "--save_steps", "5"),
        *("--max_eval_samples", "8", "--resume", "auto"),
    ]


def environments(n):
    """What torchrun sets in each of `n` processes; like its agent, we keep their store."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    STORES[:] = [*STORES[-3:], store]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    shared |= {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]


def run(n, arguments, *, strike=None):
    """A run in n processes; `strike(processes)` may do something to them. Exit statuses."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(Started("train.py", *arguments, cwd=os.getcwd(), env=environment))
            for environment in environments(n)
        ]
        if strike:
            strike([process.process for process in started])
        return [process.finish(600).returncode for process in started]


def weights(folder):
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()


def killer(dice, longest, counted):
    """Kills one of the processes after a random time, if it still runs."""

    def strike(processes):
        victim = dice.choice(processes)
        victim.join(dice.uniform(0.2, longest))
        if victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
            counted.append(len(processes))

    return strike


def stopper(after):
    def strike(processes):
        time.sleep(after)
        os.kill(processes[-1].pid, signal.SIGTERM)

    return strike


def same_bits(arguments):
    """The sha256 of the weights of the run on 1, 2 and 4 processes, and stopped in between."""
    found = {}
    for n in (1, 2, 4):
        start = time.monotonic()
        assert run(n, [*arguments, "--output_dir", f"on-{n}"]) == [0] * n
        took = time.monotonic() - start
        found[n] = weights(f"on-{n}")
        print(f"on {n} processes, {took:.0f} s  sha256 {found[n]}", flush=True)
    statuses = [run(n, [*arguments, "--output_dir", "s"], strike=stopper(took / 3)) for n in (4, 1)]
    statuses.append(run(2, [*arguments, "--output_dir", "s"]))
    print(f"on 4, 1 and 2 ({statuses})  sha256 {weights('s')}", flush=True)
    assert {*found.values(), weights("s")} == {found[1]}
    return found[1], took


def killed(arguments, kills, longest, dice):
    """Kill processes of runs, each on another number of them, until there were enough kills."""
    counted, runs, starts = [], 0, 0
    found = set()
    while len(counted) < kills:
        folder, runs = f"killed-{runs}", runs + 1
        while True:
            n, starts = dice.randint(1, 4), starts + 1
            strike = killer(dice, longest, counted)
            if set(run(n, [*arguments, "--output_dir", folder], strike=strike)) == {0}:
                break
        found.add(weights(folder))
    by_number = {n: counted.count(n) for n in sorted(set(counted))}
    print(f"{len(counted)} kills {by_number} in {starts} starts, {runs} runs: {found}", flush=True)
    return found


def torchrun(arguments, kills, dice):
    """The same by torchrun, which starts all processes again when one has died."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", str(kills), str(ROOT / "train.py")]
    agent = subprocess.Popen(
        [*command, *arguments, "--output_dir", "torchrun"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    n_killed = 0
    while agent.poll() is None and n_killed < kills:
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.wait(dice.uniform(8, 25))
        if agent.poll() is None and (workers := psutil.Process(agent.pid).children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                dice.choice(workers).kill()
                n_killed += 1
    status = agent.wait()
    print(f"torchrun: {n_killed} kills, exit status {status}, sha256 {weights('torchrun')}")
    return weights("torchrun")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", type=os.path.abspath)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--torchrun_kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        given = flags(arguments.text, arguments.steps)
        expected, took = same_bits(given)
        control = [*given, "--micro_batches_per_step", "3", "--output_dir", "control"]
        assert run(1, control) == [0]
        print(f"control, 3 micro-batches a step  sha256 {weights('control')}", flush=True)
        found = killed(given, arguments.kills, took, dice)
        found.add(torchrun(given, arguments.torchrun_kills, dice))
        print("all equal" if found == {expected} else "NOT EQUAL")


if __name__ == "__main__":
    main()
