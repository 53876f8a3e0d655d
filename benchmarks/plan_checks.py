"""The formulas of plan_scale.py against what happens, where that can be seen on one machine.

    python benchmarks/plan_checks.py

1. Two processes (gloo) make steps of a GPT-2 with 2 blocks: the bytes that each sends.
2. torch's fake process group with 1,024 ranks, in one process: the bytes that rank 0 would send for
   the gradients of GPT-2 124M; and, divided (FSDP2), the numbers it holds, and what it sends.
3. One process makes a step of GPT-2 124M: the bytes of weights, gradients and moments it holds.

Exits with 1 if a formula is off by more than a hundredth.
"""

import os
import subprocess
import sys

import torch
import torch.distributed as dist
import transformers
from plan_scale import NAMES, Assumptions, Plan, sent_by_tree
from torch.testing._internal.distributed.fake_pg import FakeStore

import gpt2ft
from gpt2ft.parallel import gradient_sum, processes
from gpt2ft.parallel.gradient_sum import GradientSum, Share

WORLD = 1024
ROWS, LENGTH = 2, 16


class Counted:
    """Bytes that this process sends in collectives, by wrapping torch's functions."""

    GATHERS = ("all_gather_into_tensor", "all_gather_single")
    SCATTERS = ("reduce_scatter_tensor", "reduce_scatter_single")

    def __init__(self):
        self.bytes, self.by = 0, {}

    def __enter__(self):
        self._before = {}
        wrapped = {"all_to_all_single": self.all_to_all, "all_gather": self.all_gather}
        wrapped |= dict.fromkeys(self.GATHERS, self.gather)
        wrapped |= dict.fromkeys(self.SCATTERS, self.scatter)
        for name, count in wrapped.items():
            if original := getattr(dist, name, None):
                self._before[name] = original
                setattr(dist, name, self._wrapped(original, count))
        return self

    def __exit__(self, *_):
        for name, original in self._before.items():
            setattr(dist, name, original)

    def _wrapped(self, original, count):
        def call(*arguments, **options):
            count(*arguments, *options.values())  # by position or by name, in this order
            return original(*arguments, **options)

        return call

    def _add(self, tensor, share):
        self.bytes += tensor.numel() * tensor.element_size() * share

    def all_to_all(self, received, sent, *_):
        n = dist.get_world_size()
        self._add(sent, (n - 1) / n)

    def all_gather(self, received, own, *_):
        if own.numel() > 64:  # not the few numbers on which they agree
            self._add(own, dist.get_world_size() - 1)

    def gather(self, whole, own, *_):
        self._add(own, dist.get_world_size() - 1)

    def scatter(self, own, whole, *_):
        n = dist.get_world_size()
        self._add(whole, (n - 1) / n)


def small_model():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2))


def batch():
    ids = torch.randint(0, 50257, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


def two_processes():
    """In each of two processes: steps of 1 and of 3 micro-batches a process."""
    model = small_model()
    state = gpt2ft.TrainState.create(model, torch.optim.SGD(model.parameters(), lr=0.1))
    found = []
    for n in (1, 3):
        with Counted() as counted:
            gpt2ft.train_step(state, [batch()] * n)
        found.append(counted.bytes)
    found = processes.gather(found)
    if processes.rank() == 0:
        n_numbers = sum(p.numel() for p in model.parameters())
        for i, n in enumerate((1, 3)):
            for rank, counts in enumerate(found):
                micro_batches = range(rank * n, rank * n + n)
                nodes = len(gradient_sum.nodes_of(micro_batches))
                compare(
                    f"bytes sent by process {rank} of 2, {n} micro-batches each, {nodes} nodes",
                    sent_by_tree(n_numbers, 2, nodes),
                    counts[i],
                )


def many_ranks():
    """One process that is rank 0 of 1,024."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORLD)
    # The fake group never says that an exchange is complete.
    processes.wait_for = lambda tensor, exchange: exchange().wait()
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    parameters = list(model.parameters())
    n = sum(p.numel() for p in parameters)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    sums = GradientSum(Share(1, tuple(range(r, r + 1) for r in range(WORLD))), parameters)
    sums.add(0, torch.zeros(()))
    with Counted() as counted:
        sums.finish()
    compare(f"bytes sent by a rank of {WORLD}", sent_by_tree(n, WORLD), counted.bytes)
    gpt2ft.shard(model)
    held = sum(p.to_local().numel() for p in model.parameters())
    compare(f"numbers held by rank 0 of {WORLD}, divided", n / WORLD, held, least=True)
    fp32 = gpt2ft.resolve_precision("fp32", torch.device("cpu"))
    with Counted() as counted, fp32.autocast():
        gpt2ft.causal_lm_loss(model, batch()).backward()
    plan = Plan("124M", WORLD, True, Assumptions(), 1.0)
    compare(f"bytes sent by a rank of {WORLD}, divided", plan.sent(), counted.bytes, least=True)


def one_process():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model))
    gpt2ft.train_step(state, [batch()])
    tensors = [p for p in model.parameters()] + [p.grad for p in model.parameters()]
    tensors += [v for entry in state.optimizer.state.values() for v in entry.values()]
    held = sum(t.numel() * t.element_size() for t in tensors)
    expected = 16 * Plan(NAMES[0], 1, False, Assumptions(), 1.0).n
    compare("bytes of weights, gradients and moments, 124M", expected, held)


def compare(what, planned, found, *, least=False):
    """Print both, and end with 1 if they differ by over a hundredth.

    `least`: the plan divides every tensor evenly. With 1,024 ranks many have fewer rows than that,
    and rows are padded: what is found may be more, which is printed, and may not be less.
    """
    ratio = found / planned
    print(f"{what}: planned {planned:,.0f}, found {found:,.0f}, ratio {ratio:.4f}", flush=True)
    if ratio < 0.99 or (ratio > 1.01 and not least):
        sys.exit(1)


def main():
    if len(sys.argv) > 1:
        return {"many": many_ranks, "one": one_process, "two": two_processes}[sys.argv[1]]()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start, what in ((torchrun, "two"), ([], "many"), ([], "one")):
        command = [sys.executable, *start, __file__, what]
        done = subprocess.run(command, env={**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"})
        if done.returncode:
            sys.exit(1)


if __name__ == "__main__":
    main()
