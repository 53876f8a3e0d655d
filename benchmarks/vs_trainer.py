"""Our step against the Hugging Face Trainer's, in one process, in ABBA order.

    python benchmarks/vs_trainer.py --json vs_trainer.json

GPT-2 124M from `GPT2Config()` with random weights, rows of random tokens; both get the same initial
weights, data in the same order, precision, dropout, learning rate and clipping. A block is a whole
run of either from the same start: warm-up steps, then steps of which each is timed. Printed are
medians, the share of the rate of a large matrix product in the same run, peak memory of each in a
process of its own, the losses of both, and the range of the ratio over the pairs of blocks.
"""

import argparse
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

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

    bf16 = shape.precision == "bf16"
    options = {"optim": "adamw_torch_fused"} if tuned else {}
    args = transformers.TrainingArguments(
        output_dir="unused",
        per_device_train_batch_size=shape.rows,
        max_steps=n_steps,
        learning_rate=LEARNING_RATE,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler_type="linear",
        bf16=bf16,
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


def peak_memory(name: str, shape: Shape) -> int:
    """Bytes of resident memory at most, in a process of its own."""
    flags = ["--peak", name, "--shapes", f"{shape.rows}x{shape.length}"]
    flags += ["--dropout", str(shape.dropout), "--precision", shape.precision]
    done = subprocess.run(
        [sys.executable, __file__, *flags], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def compare(shape: Shape, other: str, *, steps: int, pairs: int) -> dict[str, object]:
    n_steps = WARM_UP + steps
    order = (["ours", other, other, "ours"] * pairs)[: 2 * pairs]
    runs = [(name, *RUNS[name](shape, n_steps)) for name in order]
    medians = [(name, statistics.median(times)) for name, times, _ in runs]
    ratios = []
    for (name, seconds), (_, following) in zip(medians[::2], medians[1::2], strict=True):
        ratios.append(following / seconds if name == "ours" else seconds / following)
    rate = matrix_rate(shape.precision)
    result: dict[str, object] = {"shape": str(shape), "other": other, "ratios": ratios}
    print(f"\n{shape}: ours against {other}")
    for name in ("ours", other):
        seconds = statistics.median(t for run, times, _ in runs if run == name for t in times)
        tokens = shape.rows * shape.length
        share = tokens * FLOP_PER_TOKEN[shape.length] / seconds / rate
        losses = next(curve for run, _, curve in runs if run == name)
        peak = peak_memory(name, shape)
        result[name] = {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "matrix_share": share,
            "peak_bytes": peak,
            "losses": losses,
        }
        print(
            f"  {name:<15}{seconds:8.3f} s a step {tokens / seconds:8.0f} tok/s "
            f"{share:7.1%} of {rate / 1e9:,.0f} GFLOP/s {peak / 2**30:7.2f} GiB"
        )
        print("    losses", " ".join(f"{loss:.4f}" for loss in losses))
    ratios.sort()
    print(
        f"  ours is {statistics.median(ratios):.2f} times as fast, "
        f"pairs from {ratios[0]:.2f} to {ratios[-1]:.2f}"
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
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    shapes = [
        Shape(*map(int, shape.split("x")), dropout, precision)
        for precision, shape, dropout in itertools.product(
            args.precision, args.shapes, args.dropout
        )
    ]
    if args.peak:
        RUNS[args.peak](shapes[0], WARM_UP + 2)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
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
