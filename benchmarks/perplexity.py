"""Perplexity our way, and by Hugging Face's recipe for fixed-length models, side by side.

    python benchmarks/perplexity.py MODEL TEXT --block_size 256 --stride 128

The recipe is the loop of the page "Perplexity of fixed-length models" of transformers' docs, which
counts each window's targets less one when it averages; also shown is the mean over all targets.

    python benchmarks/perplexity.py MODEL TEXT --precisions fp32 bf16 int8

The perplexity of a model that is ready to generate, in each of these, beside that in the first.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import torch

from gpt2ft import load_model, load_tokenizer, resolve_precision
from gpt2ft.generation.ready_model import make_ready


def hugging_face(model, ids, size, stride):
    """Perplexity as the recipe has it, and over all targets alike."""
    as_written, by_target, previous = [0.0, 0], [0.0, 0], 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + size, ids.shape[1])
        target_ids = ids[:, begin:end].clone()
        target_ids[:, : -(end - previous)] = -100
        targets = int((target_ids[:, 1:] != -100).sum())
        if targets:
            with torch.no_grad():
                loss = float(model(ids[:, begin:end], labels=target_ids).loss)
            counted = int((target_ids != -100).sum()) - 1  # "due to the internal label shift"
            for sums, n in ((as_written, counted), (by_target, targets)):
                sums[0], sums[1] = sums[0] + loss * n, sums[1] + n
        previous = end
        if end == ids.shape[1]:
            break
    return [math.exp(loss / n) for loss, n in (as_written, by_target)]


def ours(name, text, size, stride, protocol):
    flags = ["--validation_file", text, "--row_separator", "none", "--block_size", str(size)]
    flags += ["--precision", "fp32", "--protocol", protocol, "--json"]
    flags += ["--stride", str(stride)] if protocol == "sliding" else []
    command = [sys.executable, "-m", "gpt2ft", "evaluate", name, *flags]
    card = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return card["model"]["perplexity"], card["model"]["n_targets"]


def compare_precisions(given, ids):
    first = None
    for name in given.precisions:
        precision = resolve_precision(name, torch.device("cpu"))
        model = make_ready(load_model(given.model).eval(), precision)
        perplexity = hugging_face(model, ids, given.block_size, given.block_size)[1]
        first = first or perplexity
        print(f"{name:<6}perplexity {perplexity:.4f}, {perplexity / first - 1:+.2%}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--block_size", type=int, default=256)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--precisions", nargs="+")
    parser.add_argument("--tokens", type=int, help="of the text's beginning; default: all")
    given = parser.parse_args()
    model, tokenizer = load_model(given.model).eval(), load_tokenizer(given.model)
    text = Path(given.text).read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    ids = ids[:, : given.tokens]
    print(f"{ids.shape[1]:,} tokens")
    if given.precisions:
        compare_precisions(given, ids)
        return
    for protocol, stride in (("blocked", given.block_size), ("sliding", given.stride)):
        as_written, by_target = hugging_face(model, ids, given.block_size, stride)
        perplexity, n = ours(given.model, given.text, given.block_size, stride, protocol)
        print(
            f"{protocol:<9}ours {perplexity:.6f} over {n:,} targets; the recipe {by_target:.6f}, "
            f"weighted as it is written {as_written:.6f}"
        )


if __name__ == "__main__":
    main()
