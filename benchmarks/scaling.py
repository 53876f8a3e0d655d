"""What grows with the corpus, and what must not: 1 MB to 1 GB of text.

    python benchmarks/scaling.py DATA/gpt2-tokenizer TEXT... --json scaling.json

The corpus of each size is the lines of the given text files in an order drawn anew for each pass
over them, as one file. A run of `gpt2ft` is built in a process of its own with an empty cache,
which tokenizes; then, in the order of the sizes and back, with a warm one, and trains a small new
GPT-2 (with that tokenizer's vocabulary). Printed are the rate of tokenizing, the seconds from the
libraries' import to the first step with a warm cache, tokens per second over steps that are spread
over the whole epoch, and memory: what a process holds itself at its end, and at most together with
the files it has mapped, which the system takes back when it needs to.
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

STEPS, WARM_UP = 200, 10
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

    import gpt2ft.run.build
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
    run = gpt2ft.run.build.build(config)
    built = time.perf_counter() - start
    n_tokens = run.data.samples.n_tokens
    result: dict[str, Any] = {"build_s": built, "tokens": n_tokens}
    if trains:
        stride = max(1, len(run.data) // STEPS)
        times = []
        for _ in train(run.state, run.data, max_steps=STEPS, **run.loop_settings()):
            times.append(time.perf_counter())
            run.state.batches += stride - 1  # the next is far from this one
        result["first_step_s"] = times[0] - start
        steps = [after - before for before, after in itertools.pairwise(times)]
        result["tokens_per_s"] = 8 * 512 / statistics.median(steps[WARM_UP:])
    result["threads"], result["torch"] = torch.get_num_threads(), torch.__version__
    with open("/proc/self/status", encoding="utf-8") as status:
        lines = dict(line.split(":", 1) for line in status)
    for name, key in (("peak_bytes", "VmHWM"), ("own_bytes", "RssAnon")):
        result[name] = int(lines[key].split()[0]) * 1024
    print(json.dumps(result))


def measure(folder: Path, tokenizer: str, *flags: str) -> dict[str, Any]:
    """The figures of a process of its own."""
    command = [sys.executable, __file__, tokenizer, str(folder / "corpus.txt"), "--here", *flags]
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(n_mb: int, cold: dict[str, Any], warm: list[dict[str, Any]]) -> None:
    """A line of what one size took."""
    median = {
        name: statistics.median(run[name] for run in warm) for name in warm[0] if name != "torch"
    }
    mib = {name: median[name] / 2**20 for name in ("peak_bytes", "own_bytes")}
    print(
        f"{n_mb:>5} MB {warm[0]['tokens']:>12,} tokens  tokenized at "
        f"{n_mb / (cold['build_s'] - median['build_s']):5.2f} MB/s  first step after "
        f"{median['first_step_s']:5.2f} s  {median['tokens_per_s']:7.0f} tok/s  MiB of its own, "
        f"and with mapped files, training {mib['own_bytes']:5.0f} {mib['peak_bytes']:5.0f}, "
        f"tokenizing {cold['own_bytes'] / 2**20:5.0f} {cold['peak_bytes'] / 2**20:5.0f}",
        flush=True,
    )


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
    with tempfile.TemporaryDirectory(dir=args.folder) as parent:
        folders = {n_mb: Path(parent) / str(n_mb) for n_mb in args.mb}
        cold: dict[int, Any] = {}
        for n_mb, folder in folders.items():
            folder.mkdir()
            write_corpus(folder / "corpus.txt", args.texts, n_mb * 1_000_000)
            cold[n_mb] = measure(folder, tokenizer)
        warm: dict[int, list[Any]] = {n_mb: [] for n_mb in args.mb}
        for n_mb in [*args.mb, *reversed(args.mb)]:
            warm[n_mb].append(measure(folders[n_mb], tokenizer, "--train"))
    for n_mb in args.mb:
        report(n_mb, cold[n_mb], warm[n_mb])
    if args.json:
        results = [{"mb": n_mb, "cold": cold[n_mb], "warm": warm[n_mb]} for n_mb in args.mb]
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
