"""What grows with the corpus, and what must not: 1 MB to 1 GB of text.

    python benchmarks/scaling.py DATA/gpt2-tokenizer TEXT... --json scaling.json

The corpus of each size is the lines of the given text files in an order drawn anew for each pass
over them, as one file. A run of `gpt2ft` is built twice, each time in a process of its own: first
with an empty cache, which tokenizes, then with a warm one, which trains a small new GPT-2 (with
that tokenizer's vocabulary). Printed are the rate of tokenizing, the seconds from the libraries'
import to the first step with a warm cache, tokens per second over steps that are spread over the
whole epoch, and peak memory of both processes.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS, WARM_UP = 60, 10
MODEL = "n_layer=2,n_head=2,n_embd=64,n_positions=512"


def write_corpus(path: Path, texts: list[Path], n_bytes: int) -> None:
    lines = [line for text in texts for line in text.read_bytes().splitlines(keepends=True)]
    order, written = random.Random(0), 0
    with open(path, "wb") as file:
        while written < n_bytes:
            order.shuffle(lines)
            for line in lines:
                written += file.write(line)
                if written >= n_bytes:
                    break


def run_here(file: Path, tokenizer: str, trains: bool) -> None:
    """Build, and train if asked; prints what it took as JSON."""
    import datasets
    import torch

    import gpt2ft.building
    from gpt2ft.config import TrainConfig
    from gpt2ft.loop import train

    datasets.disable_progress_bars()
    config = TrainConfig(
        model_name_or_path=None,
        model_type="gpt2",
        tokenizer_name=tokenizer,
        config_overrides=MODEL,
        train_file=[str(file)],
        max_steps=STEPS,
        dropout=0.0,
    )
    start = time.perf_counter()
    run = gpt2ft.building.build(config)
    built = time.perf_counter() - start
    n_tokens = int(run.data.samples.lengths.sum())
    result: dict[str, Any] = {"build_s": built, "tokens": n_tokens}
    if trains:
        stride = max(1, len(run.data) // STEPS)
        times = []
        for _ in train(run.state, run.data, max_steps=STEPS, **run.loop_settings()):
            times.append(time.perf_counter())
            run.state.batch = run.state.batch - 1 + stride  # the next is far from this one
        result["first_step_s"] = times[0] - start
        steps = [after - before for before, after in itertools.pairwise(times)]
        result["tokens_per_s"] = 8 * 512 / statistics.median(steps[WARM_UP:])
    result["threads"], result["torch"] = torch.get_num_threads(), torch.__version__
    with open("/proc/self/status", encoding="utf-8") as status:
        result["peak_bytes"] = next(
            int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")
        )
    print(json.dumps(result))


def measure(n_mb: int, texts: list[Path], tokenizer: str, folder: Path) -> dict[str, Any]:
    file = folder / "corpus.txt"
    write_corpus(file, texts, n_mb * 1_000_000)
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    results = []
    for flags in ([], ["--train"]):
        command = [sys.executable, __file__, tokenizer, str(file), "--here", *flags]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
    cold, warm = results
    tokenizing = cold["build_s"] - warm["build_s"]
    cold_peak, warm_peak = (result["peak_bytes"] / 2**20 for result in results)
    print(
        f"{n_mb:>5} MB {warm['tokens']:>12,} tokens  tokenized at {n_mb / tokenizing:5.2f} MB/s  "
        f"first step after {warm['first_step_s']:5.2f} s  {warm['tokens_per_s']:7.0f} tok/s  peak "
        f"{cold_peak:6.0f} MiB tokenizing, {warm_peak:6.0f} training",
        flush=True,
    )
    return {"mb": n_mb, "cold": cold, "warm": warm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer")
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--mb", nargs="+", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--folder", help="where there is room; default: the system's")
    parser.add_argument("--json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        run_here(args.texts[0], args.tokenizer, args.train)
        return
    tokenizer = str(Path(args.tokenizer).resolve())
    results = []
    for n_mb in args.mb:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            results.append(measure(n_mb, args.texts, tokenizer, Path(folder)))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
