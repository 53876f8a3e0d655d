"""Our step against the Hugging Face Trainer's, in ABBA order.

    python benchmarks/vs_trainer.py --json vs_trainer.json

GPT-2 124M from `GPT2Config()` with random weights, rows of random tokens; both get the same initial
weights, data in the same order, precision, dropout, learning rate and clipping. A block is a whole
run of either from the same start, warm-up steps and then steps of which each is timed, in a process
of its own, since how memory is kept is a property of the process. Printed are medians, the share of
the rate of a large matrix product measured between the blocks, peak memory, the losses of both, and
the range of the ratio over the pairs of blocks.
"""

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
import transformers

import gpt2ft
from gpt2ft.precision import resolve_precision

LEARNING_RATE, MAX_GRAD_NORM, WARM_UP = 5e-5, 1.0, 2
FLOP_PER_TOKEN = {64: 748e6, 256: 769e6, 512: 797e6, 1024: 854e6}


@dataclass(frozen=True)
class Shape:
    rows: int
    length: int
    dropout: float
    precision: str

    def __str__(self) -> str:
        return f"{self.rows}x{self.length}, dropout {self.dropout:g}, {self.precision}"


def new_model(shape: Shape) -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**dropout))
    model.loss_type = "ForCausalLM"  # else its mean counts the first token of a row as a target
    return model


def rows(shape: Shape, n_steps: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50257, (n_steps * shape.rows, shape.length), generator=draw)
    return [{"input_ids": row, "labels": row} for row in ids]


class Ordered:
    """The rows as micro-batches, in order."""

    def __init__(self, data: list[dict[str, torch.Tensor]], size: int) -> None:
        self.data, self.size = data, size
        self.collate = gpt2ft.CausalLMCollator(0)

    def __len__(self) -> int:
        return len(self.data) // self.size

    def __getitem__(self, position: tuple[int, int]) -> dict[str, torch.Tensor]:
        start = position[1] * self.size
        return self.collate(self.data[start : start + self.size])

    def sample_numbers(self, epoch: int, index: int) -> range:
        return range(index * self.size, (index + 1) * self.size)


def ours(shape: Shape, n_steps: int) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step."""
    model = new_model(shape)
    gpt2ft.keep_freed_memory()
    gpt2ft.accelerate(model)
    precision = resolve_precision(shape.precision, torch.device("cpu"))
    optimizer = gpt2ft.build_optimizer(model, learning_rate=LEARNING_RATE)
    state = gpt2ft.TrainState.create(model, optimizer, precision=precision)
    data = Ordered(rows(shape, n_steps), shape.rows)
    times, losses = [time.perf_counter()], []
    for result in gpt2ft.train(
        state,
        data,
        max_steps=n_steps,
        learning_rate=lambda step: LEARNING_RATE * (1 - step / n_steps),
        max_grad_norm=MAX_GRAD_NORM,
    ):
        losses.append(result.loss)
        times.append(time.perf_counter())
    return _differences(times), [float(loss) for loss in losses]


def trainer(shape: Shape, n_steps: int, *, tuned: bool) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step of the Trainer."""
    times: list[float] = []
    losses: list[float] = []

    class Timer(transformers.TrainerCallback):
        def on_train_begin(self, *args: object, **keywords: object) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *args: object, **keywords: object) -> None:
            times.append(time.perf_counter())

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, dataset: object = None) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args: object, **keywords: object) -> torch.Tensor:
            loss = super().compute_loss(*args, **keywords)
            losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
            return loss

    options: dict[str, Any] = {}  # its defaults: fp32 on a CPU
    if tuned:
        options = {"bf16": shape.precision == "bf16", "optim": "adamw_torch_fused"}
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=shape.rows,
            max_steps=n_steps,
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_GRAD_NORM,
            lr_scheduler_type="linear",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **options,
        )
        InOrder(
            model=new_model(shape),
            args=args,
            train_dataset=rows(shape, n_steps),
            callbacks=[Timer()],
        ).train()
    return _differences(times), losses


def _differences(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)][WARM_UP:]


def matrix_rate(precision: str) -> float:
    """FLOP/s of a product of two 4096 x 4096 matrices, the best of four."""
    a = torch.randn(4096, 4096, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 4096**3 / min(seconds[1:])


RUNS = {
    "ours": ours,
    "Trainer": lambda shape, n: trainer(shape, n, tuned=False),
    "Trainer, tuned": lambda shape, n: trainer(shape, n, tuned=True),
}


def run_here(name: str, shape: Shape, n_steps: int) -> None:
    """A block, in this process; prints what came of it as JSON."""
    times, losses = RUNS[name](shape, n_steps)
    with open("/proc/self/status", encoding="utf-8") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({"name": name, "times": times, "losses": losses, "peak_bytes": peak}))


def run(name: str, shape: Shape, n_steps: int) -> dict[str, Any]:
    """A block, in a process of its own."""
    flags = ["--run", name, "--steps", str(n_steps - WARM_UP)]
    flags += ["--shapes", f"{shape.rows}x{shape.length}"]
    flags += ["--dropout", str(shape.dropout), "--precision", shape.precision]
    done = subprocess.run(
        [sys.executable, __file__, *flags], capture_output=True, text=True, check=True
    )
    block: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return block


def compare(shape: Shape, other: str, *, steps: int, pairs: int) -> dict[str, Any]:
    order = (["ours", other, other, "ours"] * pairs)[: 2 * pairs]
    blocks, rates = [], []
    for name in order:
        blocks.append(run(name, shape, WARM_UP + steps))
        rates.append(matrix_rate(shape.precision))
    rate = statistics.median(rates)
    ratios = []
    for block, following in zip(blocks[::2], blocks[1::2], strict=True):
        seconds = {b["name"]: statistics.median(b["times"]) for b in (block, following)}
        ratios.append(seconds[other] / seconds["ours"])
    result: dict[str, Any] = {"shape": str(shape), "other": other, "ratios": ratios}
    print(f"\n{shape}: ours against {other}")
    for name in ("ours", other):
        mine = [block for block in blocks if block["name"] == name]
        seconds = statistics.median(t for block in mine for t in block["times"])
        tokens = shape.rows * shape.length
        share = tokens * FLOP_PER_TOKEN[shape.length] / seconds / rate
        peak = max(block["peak_bytes"] for block in mine)
        result[name] = {"seconds": seconds, "matrix_share": share, "peak_bytes": peak}
        result[name] |= {"tokens_per_second": tokens / seconds, "losses": mine[0]["losses"]}
        print(
            f"  {name:<15}{seconds:8.3f} s a step {tokens / seconds:8.0f} tok/s "
            f"{share:7.1%} of {rate / 1e9:,.0f} GFLOP/s {peak / 2**30:7.2f} GiB"
        )
        print("    losses", " ".join(f"{loss:.4f}" for loss in mine[0]["losses"]))
    memory = result["ours"]["peak_bytes"] / result[other]["peak_bytes"]
    print(
        f"  ours is {statistics.median(ratios):.2f} times as fast, pairs from {min(ratios):.2f} to "
        f"{max(ratios):.2f}, with {memory:.2f} of its memory",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["8x64", "4x512"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--precision", nargs="+", default=["bf16"])
    parser.add_argument("--others", nargs="+", default=["Trainer, tuned", "Trainer"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--json")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    shapes = [
        Shape(*map(int, shape.split("x")), dropout, precision)
        for precision, shape, dropout in itertools.product(
            args.precision, args.shapes, args.dropout
        )
    ]
    if args.run:
        run_here(args.run, shapes[0], WARM_UP + args.steps)
        return
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads,", end=" "
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    results = [
        compare(shape, other, steps=args.steps, pairs=args.pairs)
        for shape, other in itertools.product(shapes, args.others)
    ]
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
