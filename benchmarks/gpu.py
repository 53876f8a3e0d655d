"""Every check that needs a GPU, in under eight minutes and without a download.

    python benchmarks/gpu.py --json gpu.json

1. fp16 with the gradient scaler learns as fp32 does; an overflow is skipped and changes no
   weight; resuming is exact to the bit; how often the host waits for the device in a step,
   counted by the profiler.
2. Steps per second, model FLOPs utilization (MFU) and peak memory of GPT-2 124M with random
   weights, at 8x64, 8x1024 and the largest batch of 1,024 that fits; ours in eager mode and
   compiled, and the Trainer in both. Targets that are not reached are named.
3. Generation at batch 1, 8 and 32, against `model.generate`.

A part that fails is reported, and the next goes on; the exit status is then 1. MFU is against the
device's dense rate in fp16 and bf16 as its maker names it, where it is known; the rate of a large
product in the same run is printed beside it. `--device cpu` runs everything in small sizes, to try
the program.
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import gpt2ft
from gpt2ft.config import TrainConfig
from gpt2ft.generation.ready_model import make_ready
from gpt2ft.generation.sampling import generate_tokens
from gpt2ft.kernels.accelerate import compile_blocks
from gpt2ft.precision import Precision, resolve_precision
from gpt2ft.run.verify_resume import verify_resume

DENSE_RATE = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
WARM_UP, PROMPT, NEW = 5, 16, 100
PARTS: list[Callable[[torch.device], Any]] = []


def part(function: Callable[[torch.device], Any]) -> Callable[[torch.device], Any]:
    PARTS.append(function)
    return function


def small(device: torch.device) -> bool:
    return device.type == "cpu"


def new_model(device: torch.device, **settings: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 512} if small(device) else {}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(**{**dropout, **sizes, **settings})
    config.eos_token_id = config.bos_token_id = None
    model = transformers.GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"
    return model.to(device)


class Periodic:
    """Eight micro-batches of rows that can be learned: token n is followed by 7 n + a few."""

    def __init__(self, rows: int, length: int, vocabulary: int) -> None:
        self.size = rows
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (8, rows, length), generator=draw)
        noise = torch.randint(0, 3, (8, rows, length), generator=draw)
        for column in range(1, length):
            ids[..., column] = (7 * ids[..., column - 1] + noise[..., column]) % vocabulary
        self.batches = ids

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, position: tuple[int, int]) -> dict[str, torch.Tensor]:
        ids = self.batches[position[1] % 8]
        return {"input_ids": ids, "labels": ids}

    def sample_numbers(self, epoch: int, index: int) -> range:
        return range(index * self.size, (index + 1) * self.size)


def new_state(model: Any, precision: Precision) -> gpt2ft.TrainState:
    optimizer = gpt2ft.build_optimizer(model, learning_rate=3e-4)
    return gpt2ft.TrainState.create(model, optimizer, precision=precision)


def half(device: torch.device) -> str:
    return "bf16" if small(device) else "fp16"


@part
def fp16_learns_as_fp32(device: torch.device) -> dict[str, Any]:
    curves = {}
    for name in ("fp32", half(device)):
        state = new_state(new_model(device, n_layer=4), resolve_precision(name, device))
        data = Periodic(8, 64, 512)
        steps = gpt2ft.train(state, data, max_steps=100, max_grad_norm=1.0)
        curves[name] = [float(result.loss) for result in steps]
    exact, other = curves.values()
    apart = max(abs(a - b) for a, b in zip(exact, other, strict=True))
    for name, curve in curves.items():
        print(f"  {name}", " ".join(f"{loss:.3f}" for loss in curve[9::10]))
    print(f"  at most {apart:.4f} apart")
    if apart > 0.05 or exact[-1] > exact[0] - 0.5:
        raise AssertionError(f"the curves are {apart:.4f} apart, or nothing was learned")
    return {**curves, "largest_difference": apart}


@part
def an_overflow_is_skipped(device: torch.device) -> dict[str, Any]:
    model = new_model(device)
    precision = Precision(device, torch.float16)
    state = new_state(model, precision)
    state.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**24)
    before = [p.detach().clone() for p in model.parameters()]
    skips = []
    for result in gpt2ft.train(state, Periodic(8, 64, 512), max_steps=12):
        skips.append(bool(result.skipped))
        same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        if all(skips) and not all(same):
            raise AssertionError("a skipped update changed the weights")
    skipped, scale = sum(skips), state.scaler.get_scale()
    print(f"  {skipped} updates skipped, down to a scale of {scale:.3g}, then {12 - skipped} made")
    if not 0 < skipped < 12 or int(state.skipped_steps) != skipped or state.step != 12:
        raise AssertionError(f"skipped {skips}")
    return {"skipped": skipped, "scale": scale}


@part
def resuming_is_exact(device: torch.device) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("".join(f"{n * n} is the square of {n}\n" for n in range(3000)))
        sizes = "n_layer=2,n_head=2,n_embd=64" if small(device) else "n_layer=12"
        config = TrainConfig(
            model_name_or_path=None,
            model_type="gpt2",
            config_overrides=f"{sizes},vocab_size=512",
            train_file=[str(text)],
            block_size=128,
            precision="auto",
            device=device.type,
            gradient_accumulation_steps=2,
        )
        if verify_resume(config, steps=2):
            raise AssertionError("resuming is not exact")
    return {"exact": True}


@part
def a_step_waits_for_nothing(device: torch.device) -> dict[str, float]:
    allowed = {"bf16": 0} if small(device) else {"bf16": 0, "fp16": 0}
    waits = {}
    for name in allowed:
        state = new_state(new_model(device, n_layer=4), resolve_precision(name, device))
        steps = gpt2ft.train(state, Periodic(8, 64, 512), max_steps=10**6, max_grad_norm=1.0)
        for _ in range(WARM_UP):
            next(steps)
        with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as p:
            for _ in range(10):
                next(steps)
        waits[name] = sum(event.count for event in p.key_averages() if event.key in WAITS) / 10
        print(f"  {name}: the host waits {waits[name]:.1f} times a step")
    if any(waits[name] > most for name, most in allowed.items()):
        raise AssertionError(f"more than {allowed}")
    return waits


def ours(model: Any, data: Any, precision: Precision, n_steps: int) -> list[float]:
    """Seconds of each step after the warm-up."""
    state = new_state(model, precision)
    times = []
    steps = gpt2ft.train(state, data, max_steps=10**6, max_grad_norm=1.0)
    for _ in range(WARM_UP):
        next(steps)
    for _ in range(n_steps):
        _synchronize(precision.device)
        start = time.perf_counter()
        next(steps)
        _synchronize(precision.device)
        times.append(time.perf_counter() - start)
    return times


def trainer(model: Any, data: Any, precision: Precision, n_steps: int, *, compiled: bool) -> Any:
    """Seconds of each step of the Trainer after the warm-up."""
    times: list[float] = []

    class Timer(transformers.TrainerCallback):
        def on_step_end(self, *args: object, **keywords: object) -> None:
            _synchronize(precision.device)
            times.append(time.perf_counter())

    n_rows = data.size * (WARM_UP + n_steps + 1)
    rows = [
        {"input_ids": row, "labels": row}
        for index in range(n_rows // data.size)
        for row in data[0, index]["input_ids"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=data.size,
            max_steps=WARM_UP + n_steps + 1,
            fp16=precision.name == "fp16",
            bf16=precision.name == "bf16",
            optim="adamw_torch_fused",
            torch_compile=compiled,
            use_cpu=precision.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        transformers.Trainer(
            model=model, args=args, train_dataset=rows, callbacks=[Timer()]
        ).train()
    return [after - before for before, after in itertools.pairwise(times)][WARM_UP:]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def flop_per_step(model: Any, rows: int, length: int) -> float:
    """Of forward and backward pass: linear layers and head, and attention's full squares."""
    config = model.config
    n_linear = sum(p.numel() for name, p in model.named_parameters() if "wpe" not in name)
    attention = 12 * config.n_layer * config.n_embd * length
    return rows * length * (6.0 * n_linear + attention)


def largest_batch(device: torch.device, precision: Precision, length: int) -> int:
    """Rows, a power of two, of a step that fits."""
    rows = 8
    while rows < 1024:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            ours(new_model(device), Periodic(2 * rows, length, 512), precision, 1)
        except torch.OutOfMemoryError:
            break
        rows *= 2
    return rows


@part
def steps_per_second(device: torch.device) -> list[dict[str, Any]]:
    precision = resolve_precision("auto", device)
    shapes = [(2, 16)] if small(device) else [(8, 64), (8, 1024)]
    if not small(device):
        shapes.append((largest_batch(device, precision, 1024), 1024))
    name = "" if small(device) else torch.cuda.get_device_name()
    peak = next((rate for known, rate in DENSE_RATE.items() if known in name), None)
    product = product_rate(device, torch.bfloat16 if small(device) else torch.float16)
    print(f"  a product of 8192 x 8192: {product / 1e12:.0f} TFLOP/s in {precision.name}")
    results = []
    for rows, length in shapes:
        data = Periodic(rows, length, 512)
        n_steps = 3 if small(device) else 30
        kinds = ["ours", "Trainer"] + ["ours compiled", "Trainer compiled"] * (not small(device))
        for kind in kinds:
            gc.collect()
            model = new_model(device)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                torch._dynamo.reset()
            if kind.startswith("ours"):
                compile_blocks(model) if "compiled" in kind else gpt2ft.accelerate(model)
                times = ours(model, data, precision, n_steps)
            else:
                times = trainer(model, data, precision, n_steps, compiled="compiled" in kind)
            seconds = statistics.median(times)
            flops = flop_per_step(model, rows, length) / seconds
            memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
            result = {"rows": rows, "length": length, "kind": kind, "seconds": seconds}
            result |= {"mfu": flops / peak if peak else None, "of_product": flops / product}
            results.append({**result, "peak_bytes": memory})
            mfu = f"MFU {flops / peak:6.1%}" if peak else "MFU unknown"
            print(
                f"  {rows:>4} x {length:<5}{kind:<17}{1 / seconds:8.2f} steps/s "
                f"{rows * length / seconds:10,.0f} tok/s  {mfu}  {memory / 2**30:6.2f} GiB",
                flush=True,
            )
    say_what_is_short(results)
    return results


def say_what_is_short(results: list[dict[str, Any]]) -> None:
    """Of the targets, all at 8 x 1024: 1.5 times the Trainer, both compiled 1.0 times, MFU 40 %."""
    long = {r["kind"]: r for r in results if (r["rows"], r["length"]) == (8, 1024)}
    if not long:
        return
    seconds = {kind: result["seconds"] for kind, result in long.items()}
    eager = seconds["Trainer"] / seconds["ours"]
    compiled = seconds["Trainer compiled"] / seconds["ours compiled"]
    mfu = max(result["mfu"] or 0.0 for kind, result in long.items() if kind.startswith("ours"))
    for name, value, target in (
        ("ours / Trainer", eager, 1.5),
        ("ours / Trainer, both compiled", compiled, 1.0),
        ("MFU", mfu, 0.4),
    ):
        print(f"  {name}: {value:.2f}{'' if value >= target else f', short of {target}'}")


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    n = 512 if small(device) else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    seconds = []
    for _ in range(8):
        _synchronize(device)
        start = time.perf_counter()
        a @ a
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


@part
def generation(device: torch.device) -> list[dict[str, Any]]:
    precision = resolve_precision("auto", device)
    results = []
    for batch in (1, 8, 32):
        draw = torch.Generator().manual_seed(1)
        prompts = torch.randint(0, 512, (batch, PROMPT), generator=draw)
        mine = make_ready(new_model(device).eval(), precision)
        theirs = new_model(device).eval().to(precision.dtype)

        def we(model: Any = mine, ids: torch.Tensor = prompts) -> None:
            sampling = gpt2ft.Sampling(max_new_tokens=NEW, temperature=1.0)
            list(generate_tokens(model, ids.tolist(), sampling, seeds=range(len(ids))))

        def they(model: Any = theirs, ids: torch.Tensor = prompts) -> None:
            settings = {"max_new_tokens": NEW, "top_k": 50, "top_p": 0.95, "pad_token_id": 0}
            ids = ids.to(device)
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, **settings)

        rates = {}
        for name, function in (("ours", we), ("model.generate", they)):
            times = []
            for _ in range(4):
                _synchronize(device)
                start = time.perf_counter()
                function()
                _synchronize(device)
                times.append(time.perf_counter() - start)
            rates[name] = batch * NEW / statistics.median(times[1:])
        ratio = rates["ours"] / rates["model.generate"]
        print(
            f"  batch {batch:>2}  ours {rates['ours']:9.1f} tok/s  model.generate "
            f"{rates['model.generate']:9.1f}  {ratio:.2f}",
            flush=True,
        )
        results.append({"batch": batch, "tokens_per_second": rates})
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    name = "CPU, small sizes" if small(device) else torch.cuda.get_device_name()
    report: dict[str, Any] = {"device": name, "torch": torch.__version__}
    report["transformers"] = transformers.__version__
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
    failed = []
    for function in PARTS:
        print(function.__name__.replace("_", " "), flush=True)
        start = time.perf_counter()
        try:
            report[function.__name__] = function(device)
        except Exception:
            traceback.print_exc()
            failed.append(function.__name__)
            report[function.__name__] = {"failed": traceback.format_exc()}
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    print("failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
