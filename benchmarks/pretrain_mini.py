"""The built-in model gpt2-mini, made from five public-domain books by `gpt2ft train`.

    python benchmarks/pretrain_mini.py DATA/gutenberg          # into ./gpt2-mini
    python benchmarks/pretrain_mini.py DATA/gutenberg --search # what was tried, a line each

Of each book the first 95 % are trained on; the next 2.5 % choose between the trials, the last 2.5 %
are for the figures of the model card alone. A training takes one thread, so that the same versions
on the same machine give the same bits however many cores are free; the search runs as many side by
side as there are cores. The weights are saved in bf16, and every figure is of those.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BOOKS = ("austen-emma", "austen-persuasion", "austen-sense", "carroll-alice", "melville-moby_dick")
PARTS = {"train": (0.0, 0.95), "choose": (0.95, 0.975), "report": (0.975, 1.0)}

BASE: dict[str, Any] = {
    "model_type": "gpt2",
    "config_overrides": "n_layer=5,n_head=6,n_embd=192,n_positions=256,vocab_size=2048",
    "dropout": 0.1,
    "block_size": 256,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1.5,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "weight_decay": 0.1,
    "precision": "bf16",
    "logging_steps": 400,
    "eval_steps": 400,
}
SIZES = "n_layer=4,n_head=5,n_embd=160,n_positions=256,vocab_size=8192"
CHOSEN = {**BASE, "config_overrides": SIZES, "learning_rate": 4e-3, "num_train_epochs": 16.0}
TRIALS: list[dict[str, Any]] = [
    BASE,
    {**BASE, "config_overrides": "n_layer=8,n_head=5,n_embd=160,n_positions=256,vocab_size=2048"},
    {**BASE, "config_overrides": "n_layer=4,n_head=6,n_embd=192,n_positions=256,vocab_size=4096"},
    {**BASE, "config_overrides": "n_layer=8,n_head=4,n_embd=128,n_positions=256,vocab_size=8192"},
    {**BASE, "learning_rate": 4e-3},
    {**BASE, "dropout": 0.0},
    {**BASE, "config_overrides": SIZES},
    {**BASE, "config_overrides": SIZES, "learning_rate": 4e-3},
    {**CHOSEN, "num_train_epochs": 10.0},
    {**CHOSEN, "num_train_epochs": 10.0, "dropout": 0.2},
    CHOSEN,
]


def write_parts(books: Path, folder: Path) -> None:
    """Each part of each book as a file, with line endings of one kind, cut between paragraphs."""
    for book in BOOKS:
        text = (books / f"{book}.txt").read_text(encoding="utf-8")  # any line ending becomes \n
        paragraphs = text.split("\n\n")
        for part, borders in PARTS.items():
            start, stop = (round(border * len(paragraphs)) for border in borders)
            cut = "\n\n".join(paragraphs[start:stop]) + "\n"
            (folder / f"{book}.{part}.txt").write_text(cut, encoding="utf-8")


def part_files(parts: Path, part: str) -> list[str]:
    return [str(parts / f"{book}.{part}.txt") for book in BOOKS]


def pretrain(settings: dict[str, Any], parts: Path, model_dir: Path) -> dict[str, Any]:
    """Train, save in bf16 to `model_dir`, and measure what was saved."""
    import torch

    import gpt2ft
    from gpt2ft.config import TrainConfig
    from gpt2ft.run.finetune import finetune

    torch.set_num_threads(1)
    gpt2ft.keep_freed_memory()
    files, held_out = part_files(parts, "train"), part_files(parts, "choose")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as run:
        config = TrainConfig(
            train_file=files, validation_file=held_out, output_dir=run, save_steps=10**6, **settings
        )
        if finetune(config):
            sys.exit("the training was stopped")
        model, tokenizer = gpt2ft.load_model(run), gpt2ft.load_tokenizer(run)
    seconds = time.perf_counter() - start
    model.config.recommended_learning_rate = 1e-3  # for fine-tuning, see the model's card
    model.to(torch.bfloat16).save_pretrained(model_dir)
    tokenizer.save_pretrained(model_dir)
    model = gpt2ft.load_model(str(model_dir))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(path.stat().st_size for path in model_dir.iterdir()),
        "seconds": seconds,
        **{part: measure(model, tokenizer, parts, part) for part in ("choose", "report")},
        "sha256": hashlib.sha256((model_dir / "model.safetensors").read_bytes()).hexdigest(),
    }


def measure(model: Any, tokenizer: Any, parts: Path, part: str) -> dict[str, float]:
    """Perplexity a token, and bits a byte, in fp32 over that part of all books."""
    import gpt2ft

    corpus = gpt2ft.load_corpus(train_file=part_files(parts, part), validation_split_percentage=0)
    blocks = gpt2ft.Blocks(gpt2ft.tokenize(corpus.train, tokenizer), model.config.n_positions)
    data = gpt2ft.Batches(blocks, gpt2ft.CausalLMCollator(tokenizer.pad_token_id), batch_size=8)
    precision = gpt2ft.resolve_precision("fp32", gpt2ft.resolve_device("cpu"))
    result = gpt2ft.evaluate(model, data, precision=precision)
    # Of a token of this tokenizer each character stands for a byte; end-of-text stands for none.
    n_bytes = 0
    for number in range(len(blocks)):
        targets = blocks[number]["input_ids"][1:].tolist()
        text = [i for i in targets if i != tokenizer.eos_token_id]
        n_bytes += sum(map(len, tokenizer.convert_ids_to_tokens(text)))
    bits = result.loss * result.n_targets / math.log(2)
    return {"perplexity": result.perplexity, "bits_per_byte": bits / n_bytes, "bytes": n_bytes}


def search(books: Path) -> None:
    """Every trial in a process of its own."""

    def trial(number: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, str(books), "--trial", str(number)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [*command, "--model_dir", folder], capture_output=True, text=True, env=environment
            )
        if done.returncode:
            raise SystemExit(done.stderr)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for settings, result in zip(TRIALS, pool.map(trial, range(len(TRIALS))), strict=True):
            changes = [f"{name} {value}" for name, value in settings.items() if BASE[name] != value]
            described = ", ".join(changes) or "base"
            print(
                f"{result['choose']['bits_per_byte']:.4f} bits a byte  {result['parameters']:,} "
                f"parameters, {result['bytes']:,} bytes, {result['seconds']:.0f} s  {described}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("books", type=Path)
    parser.add_argument("--model_dir", type=Path, default=Path("gpt2-mini"))
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--trial", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search:
        search(args.books)
        return
    settings = CHOSEN if args.trial is None else TRIALS[args.trial]
    with tempfile.TemporaryDirectory() as parts:
        write_parts(args.books, Path(parts))
        print(json.dumps(pretrain(settings, Path(parts), args.model_dir)))


if __name__ == "__main__":
    main()
