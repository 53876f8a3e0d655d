"""What it costs to add gradients in a fixed order, and what a second process gains.

    python benchmarks/several_processes.py

GPT-2 124M with new weights and dropout 0.1, 8 rows of 64 tokens a micro-batch, on a CPU. First one
process, in which steps that add gradients as the tree has it take turns with steps that add them
one after another, as torch does; the peak memory of each is that of a process of its own. Then two
processes with one thread each, started by torchrun: our exchange, `DistributedDataParallel`, and
one `all_reduce` of each gradient take turns; and one process with two threads on the same batch.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
import transformers

import gpt2ft
from gpt2ft import loop
from gpt2ft.parallel import processes, sharding
from gpt2ft.parallel.gradient_sum import GradientSum

ROWS, LENGTH = 8, 64


class AllReduced(GradientSum):
    """Each gradient, added over the processes in the order that the library chooses."""

    def add(self, number, loss):
        self._loss = loss

    def finish(self):
        for p in self._parameters:
            dist.all_reduce(p.grad)
        return self._loss


class LossModule(torch.nn.Module):
    """A model whose forward pass is the loss: DistributedDataParallel wants a module."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return gpt2ft.causal_lm_loss(self.model, batch)


def make_state():
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    gpt2ft.accelerate(model)
    gpt2ft.keep_freed_memory()
    return gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model))


def batches(n):
    generator = torch.Generator().manual_seed(processes.rank())
    ids = [torch.randint(0, 50257, (ROWS, LENGTH), generator=generator) for _ in range(n)]
    return [{"input_ids": x, "labels": x} for x in ids]


def seconds(step):
    """How long a call takes, from when all processes are ready."""
    processes.wait()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def our_step(state, data, *, kind=GradientSum, fixed=True):
    def step():
        sharding.GradientSum = kind
        loop.train_step(state, data, max_grad_norm=1.0, fixed_sum_order=fixed)

    return step


def ddp_step(state, data):
    """The loop that one writes around DistributedDataParallel; its gradients are means."""
    wrapped = torch.nn.parallel.DistributedDataParallel(LossModule(state.model))

    def step():
        state.model.train()
        state.optimizer.zero_grad(set_to_none=True)
        for batch in data:
            with state.precision.autocast():
                loss = wrapped(batch) / gpt2ft.count_targets(batch)
            loss.backward()
        gpt2ft.clip_and_step(state.optimizer, state.scaler, max_grad_norm=1.0)

    return step


def worker(names, n, rounds):
    """Print medians of the steps' seconds, which take turns; and the peak memory."""
    state, data = make_state(), batches(n)
    kinds = {
        "ours": lambda: our_step(state, data),
        "in turn": lambda: our_step(state, data, fixed=False),
        "all_reduce": lambda: our_step(state, data, kind=AllReduced),
        "DDP": lambda: ddp_step(state, data),
    }
    steps = {name: kinds[name]() for name in names}
    found = {name: [] for name in names}
    for _, step in sorted(steps.items()):
        step()  # a first one, which is not counted
    for turn in range(rounds):
        for name in names[:: -1 if turn % 2 else 1]:
            found[name].append(seconds(steps[name]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if processes.rank() == 0:
        medians = {name: statistics.median(times) for name, times in found.items()}
        print(json.dumps({**medians, "peak": peak}))


def run(names, n, rounds, *, n_processes=1, threads=2):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command = [sys.executable, *(start if n_processes > 1 else []), __file__]
    command += ["--worker", ",".join(names), "--micro_batches", str(n), "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--micro_batches", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker.split(","), arguments.micro_batches, arguments.rounds)
        return
    print("one process, two threads: seconds a step, and peak memory in GiB")
    for n in (1, 4, 16):
        rounds = max(2, arguments.rounds // n)
        both = run(["ours", "in turn"], n, rounds)
        peaks = [run([name], n, 1)["peak"] for name in ("ours", "in turn")]
        ratio = both["ours"] / both["in turn"]
        print(
            f"{n:>3} micro-batches   tree {both['ours']:.3f} s, {peaks[0]:.2f} GiB   in turn "
            f"{both['in turn']:.3f} s, {peaks[1]:.2f} GiB   ratio {ratio:.3f}",
            flush=True,
        )
    print("two micro-batches a step: seconds")
    alone = run(["ours"], 2, arguments.rounds)
    print(f"one process, two threads    {alone['ours']:.3f}", flush=True)
    two = run(["ours", "DDP", "all_reduce"], 1, arguments.rounds, n_processes=2, threads=1)
    for name in ("ours", "DDP", "all_reduce"):
        print(f"two processes, {name:<12} {two[name]:.3f}   peak {two['peak']:.2f} GiB each")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
