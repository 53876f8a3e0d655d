"""The usual fine-tuning script against ours, on rows of WikiText-2, in text per second.

    python benchmarks/vs_script.py DATA/wikitext-2-raw DATA/gpt2-tokenizer --json vs_script.json

The usual script: `Trainer` with its defaults, every row padded or cut to 64 tokens, blank rows too.
Ours: `gpt2ft` with its defaults, the same rows packed into blocks of 64. GPT-2 124M from
`GPT2Config()` with random weights, batches of 8, dropout 0.1, AdamW at a constant 5e-5; both train
for the same number of seconds, each in a process of its own, in ABBA order. Printed are the tokens
of text per second, without padding and without what was cut off, and the loss on the same held-out
text after these seconds.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import gpt2ft
from gpt2ft.precision import resolve_precision

BATCH, LENGTH, LEARNING_RATE, WARM_UP, HELD_OUT = 8, 64, 5e-5, 2, 32
TRAIN, VALID = "wiki.train.raw.first3279lines", "wiki.valid.raw"


def new_model() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config())


def blocks(file: Path, tokenizer: Any, limit: int | None = None) -> gpt2ft.Blocks:
    corpus = gpt2ft.load_corpus(
        train_file=[str(file)], validation_split_percentage=0, lines=True, contiguous=True
    )
    store = gpt2ft.tokenize(corpus.train, tokenizer, separator=False, one_text=True)
    return gpt2ft.Blocks(store, LENGTH, limit=limit)


def ours(data: Path, tokenizer: Any, seconds: float) -> dict[str, Any]:
    model = new_model()
    gpt2ft.keep_freed_memory()
    gpt2ft.accelerate(model)
    optimizer = gpt2ft.build_optimizer(model, learning_rate=LEARNING_RATE)
    state = gpt2ft.TrainState.create(model, optimizer)
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    batches = gpt2ft.Batches(blocks(data / TRAIN, tokenizer), collate, batch_size=BATCH, seed=0)
    times = [time.perf_counter()]
    for _ in gpt2ft.train(state, batches, max_steps=10**9, max_grad_norm=1.0):
        times.append(time.perf_counter())
        if times[-1] - times[0] > seconds:
            break
    return {"model": model, "times": times, "text": [BATCH * LENGTH] * (len(times) - 1)}


def usual(data: Path, tokenizer: Any, seconds: float) -> dict[str, Any]:
    lines = (data / TRAIN).read_text(encoding="utf-8").splitlines()
    rows = [
        tokenizer(line, truncation=True, max_length=LENGTH, padding="max_length") for line in lines
    ]
    times: list[float] = []
    text: list[int] = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *args: object, **keywords: object) -> None:
            times.append(time.perf_counter())

        def on_step_end(
            self, args: object, state: object, control: Any, **keywords: object
        ) -> None:
            times.append(time.perf_counter())
            control.should_training_stop = times[-1] - times[0] > seconds

    class Counting(transformers.Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
            text.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *args)

    model = new_model()
    with tempfile.TemporaryDirectory() as folder:
        args = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1000,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            seed=0,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
        Counting(
            model=model, args=args, train_dataset=rows, data_collator=collate, callbacks=[Clock()]
        ).train()
    return {"model": model, "times": times, "text": text}


RUNS = {"ours": ours, "usual script": usual}


def run_here(name: str, data: Path, tokenizer_folder: Path, seconds: float) -> None:
    """Train for so long, in this process; prints what came of it as JSON."""
    tokenizer = gpt2ft.load_tokenizer(str(tokenizer_folder))
    done = RUNS[name](data, tokenizer, seconds)
    elapsed = done["times"][-1] - done["times"][WARM_UP]
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    held_out = blocks(data / VALID, tokenizer, limit=HELD_OUT)
    batches = gpt2ft.Batches(held_out, collate, batch_size=BATCH)
    precision = resolve_precision("fp32", torch.device("cpu"))
    loss = gpt2ft.evaluate(done["model"], batches, precision=precision).loss
    rate = sum(done["text"][WARM_UP:]) / elapsed
    print(json.dumps({"rate": rate, "steps": len(done["text"]), "held_out_loss": loss}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--json")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if args.run:
        run_here(args.run, args.data, args.tokenizer, args.seconds)
        return
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}")
    blocks: list[dict[str, Any]] = []
    for name in (["ours", "usual script", "usual script", "ours"] * args.pairs)[: 2 * args.pairs]:
        command = [sys.executable, __file__, str(args.data), str(args.tokenizer)]
        command += ["--seconds", str(args.seconds), "--run", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        blocks.append({"name": name, **json.loads(done.stdout.splitlines()[-1])})
        print(
            f"{name:<13}{blocks[-1]['rate']:8.1f} tokens of text a second, held-out loss "
            f"{blocks[-1]['held_out_loss']:.4f} after {blocks[-1]['steps']} steps "
            f"in {args.seconds:.0f} s",
            flush=True,
        )
    ratios = []
    for pair in zip(blocks[::2], blocks[1::2], strict=True):
        rates = {block["name"]: block["rate"] for block in pair}
        ratios.append(rates["ours"] / rates["usual script"])
    median = statistics.median(ratios)
    print(f"ours is {median:.2f} times as fast, pairs from {min(ratios):.2f} to {max(ratios):.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"blocks": blocks, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
