"""A model that is divided among two processes: memory, steps, and checkpoints.

    python benchmarks/sharded.py

GPT-2 124M with new weights, 8 rows of 64 tokens on each process, one thread each, on a CPU, fp32.
Once each process holds the whole model, once it is divided (`gpt2ft.shard`). For each: the bytes
of the weights, gradients and moments that a process holds, seconds of a step (median), the peak
memory of training; and of saving and loading a checkpoint the seconds, and how far the peak memory
is above what the process held before. The bound that is claimed for a divided model: while saving
the rows of one tensor; while loading this process's part of the weights, and twice its moments.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

import gpt2ft
from gpt2ft.checkpoint.checkpoints import load_checkpoint, save_checkpoint
from gpt2ft.parallel import processes

ROWS, LENGTH, STEPS = 8, 64, 6
MIB = 1 << 20


def memory(field):
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) << 10


def above_before(work):
    """Seconds of `work()`, and bytes that its peak is above what was held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    processes.wait()
    before, start = memory("VmRSS"), time.perf_counter()
    work()
    processes.wait()
    return time.perf_counter() - start, max(0, memory("VmHWM") - before)


def held(state):
    """Bytes of the weights, gradients and moments of this process."""
    tensors = [p.detach() for p in state.model.parameters()]
    tensors += [p.grad for p in state.model.parameters()]
    tensors += [v for entry in state.optimizer.state.values() for v in entry.values()]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in local)


def new_state(kind):
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    if kind == "divided":
        gpt2ft.shard(model)
    gpt2ft.accelerate(model)
    fp32 = gpt2ft.resolve_precision("fp32", torch.device("cpu"))
    return gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model), precision=fp32)


def measure(kind, folder):
    torch.set_num_threads(1)
    state = new_state(kind)
    ids = torch.randint(0, 50257, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "labels": ids.clone()}
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        loss = gpt2ft.train_step(state, [batch], max_grad_norm=1.0).loss.item()
        seconds.append(time.perf_counter() - start)
    found = {"held": held(state), "step": statistics.median(seconds[1:]), "loss": loss}
    found["peak"] = memory("VmHWM")
    state.optimizer.zero_grad()
    writes = kind == "divided" or processes.rank() == 0
    save = above_before(lambda: save_checkpoint(folder, state) if writes else None)
    load = above_before(lambda: load_checkpoint(Path(folder) / f"checkpoint-{STEPS}", state))
    found["save s"], found["save"] = save
    found["load s"], found["load"] = load
    return found


def main():
    if "RANK" in os.environ:
        found = processes.gather_text(json.dumps(measure(*sys.argv[1:])))
        if processes.rank() == 0:
            print("[" + ",".join(found) + "]")
        return
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print("MiB of a process, the larger of two; seconds")
    print("| | held | step s | loss | peak | save s | save, above | load s | load, above |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in ("whole", "divided"):
        with tempfile.TemporaryDirectory() as folder:
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            done = subprocess.run(
                [*start, "--nproc-per-node", "2", __file__, kind, folder],
                capture_output=True,
                text=True,
                # What is freed goes back at once: else the C library's reserves are measured.
                env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"},
            )
        if done.returncode:
            sys.exit(done.stderr)
        lines = json.loads(done.stdout)
        found = {name: max(line[name] for line in lines) for name in lines[0]}
        mib = {name: round(found[name] / MIB) for name in ("held", "peak", "save", "load")}
        print(
            f"| {kind} | {mib['held']:,} | {found['step']:.2f} | {found['loss']:.5f} | "
            f"{mib['peak']:,} | {found['save s']:.2f} | {mib['save']:,} | {found['load s']:.2f} | "
            f"{mib['load']:,} |"
        )


if __name__ == "__main__":
    main()
