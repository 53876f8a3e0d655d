"""LoRA beside training all weights, of GPT-2 (124M): memory, checkpoint, speed.

    python benchmarks/lora.py --tokenizer FOLDER --text FILE [--steps 10] [--r 8]

GPT-2 with new weights and its own tokenizer, on real text, by the settings of `gpt2ft train`. Peak
memory and checkpoint of each way are those of a process of its own that makes three steps. The
speeds are of one more process, in which the ways take turns step by step; the ratios are of the
medians, without the first step of each.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers

import gpt2ft
from gpt2ft.config import TrainConfig
from gpt2ft.run.build import build

WAYS = {
    "all weights": (),
    "LoRA, peft's layers": ("c_attn",),
    "LoRA, every layer": ("c_attn", "c_proj", "c_fc"),
}


def built(way, arguments, steps):
    """The run of one way."""
    lora = {"lora_r": arguments.r, "lora_target_modules": list(WAYS[way])} if WAYS[way] else {}
    config = TrainConfig(
        model_name_or_path=arguments.model,
        train_file=[arguments.text],
        block_size=64,
        max_steps=steps,
        **lora,
    )
    return build(config)


def costs(way, arguments):
    """Parameters trained, and bytes of peak memory and checkpoint, of this process."""
    run = built(way, arguments, steps=3)
    for _ in gpt2ft.train(run.state, run.data, max_steps=3, **run.loop_settings()):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder:
        path = gpt2ft.save_checkpoint(folder, run.state, run=run.record())
        size = sum(file.stat().st_size for file in path.iterdir())
    trained = sum(p.numel() for p in run.state.model.parameters() if p.requires_grad)
    return {"trained": trained, "peak": peak, "checkpoint": size, "precision": run.config.precision}


def speeds(arguments):
    """Tokens a second of each way; they take turns."""
    steps = arguments.steps + 1
    runs = {way: built(way, arguments, steps) for way in WAYS}
    loops = {
        way: gpt2ft.train(run.state, run.data, max_steps=steps, **run.loop_settings())
        for way, run in runs.items()
    }
    seconds = {way: [] for way in WAYS}
    for _ in range(steps):
        for way, loop in loops.items():
            start = time.perf_counter()
            result = next(loop)
            result.loss.item()
            seconds[way].append(time.perf_counter() - start)
    return {way: result.n_targets / statistics.median(seconds[way][1:]) for way in WAYS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokenizer", required=True, help="folder of GPT-2's tokenizer")
    parser.add_argument("--text", required=True, help="file to train on")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=[*WAYS, "speeds"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        gpt2ft.keep_freed_memory()
        speed = arguments.way == "speeds"
        print(json.dumps(speeds(arguments) if speed else costs(arguments.way, arguments)))
        return
    transformers.logging.disable_progress_bar()

    def child(way, folder):
        command = [sys.executable, __file__, *sys.argv[1:], "--model", folder, "--way", way]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(arguments.tokenizer).save_pretrained(folder)
        found = {way: child(way, folder) for way in WAYS}
        speed = child("speeds", folder)
    print(
        f"GPT-2 124M, 8 rows of 64 tokens, r {arguments.r}, {found['all weights']['precision']}, "
        f"{arguments.steps} steps, torch {torch.__version__}, {os.cpu_count()} cores"
    )
    for way, run in found.items():
        print(
            f"{way:<20} {run['trained']:>11,} trained  peak {run['peak'] / 2**20:6,.0f} MiB  "
            f"checkpoint {run['checkpoint'] / 2**20:8,.1f} MiB  {speed[way]:6,.0f} tokens/s  "
            f"{speed[way] / speed['all weights']:.2f} x"
        )


if __name__ == "__main__":
    main()
