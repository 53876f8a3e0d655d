"""Seconds, memory and query time of the index of training text: what the copy meter costs.

python benchmarks/copies.py HELD_OUT TEXT... --tokenizer GPT2_TOKENIZER [--megabytes 100]

The texts' lines are shuffled with a seed, again and again, until there are so many megabytes. Every
stage is a process of its own, so that its peak of memory is its own too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch

from gpt2ft import load_corpus, load_tokenizer, tokenize
from gpt2ft.data.suffixes import SuffixIndex, boundaries_of
from gpt2ft.data.token_store import TokenStore

QUERY_TOKENS = 100
QUERIES = 200
STEPS = 500
LIMITS = (5, 10, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("held_out")
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        size = write_shuffled(path, given.texts, given.megabytes * 10**6, seed=given.seed)
        print(f"{size / 1e6:.1f} MB of text, the lines of {len(given.texts)} files, shuffled")
        stages = (tokenized, indexed, allocated, queried)
        for stage in stages:
            for name, value in in_process(
                stage, str(path), given.held_out, given.tokenizer
            ).items():
                print(f"{stage.__name__:<10}{name:<46}{value:>16,.4g}")
    print(
        f"Python {platform.python_version()}, pydivsufsort {version('pydivsufsort')}, numpy "
        f"{version('numpy')}, torch {torch.__version__}, {os.cpu_count()} cores"
    )


def write_shuffled(path: Path, texts: list[str], size: int, *, seed: int) -> int:
    """Lines of the texts in another order each time round, until there are `size` bytes."""
    lines = [line for text in texts for line in Path(text).read_bytes().splitlines(keepends=True)]
    draw, written = random.Random(seed), 0
    with path.open("wb") as file:
        while written < size:
            draw.shuffle(lines)
            for line in lines:
                written += file.write(line)
                if written >= size:
                    break
    return written


def in_process(stage: Callable[..., dict[str, float]], *arguments: str) -> dict[str, float]:
    """What a stage measures in a new process, and the most memory that process had."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(send, stage, arguments))
    process.start()
    result: dict[str, float] = json.loads(receive.recv())
    process.join()
    return result


def _send(send: Any, stage: Callable[..., dict[str, float]], arguments: tuple[str, ...]) -> None:
    datasets.disable_progress_bars()
    send.send(json.dumps(stage(*arguments)))


def peak() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def store_of(path: str, tokenizer: Any) -> TokenStore:
    documents = load_corpus(train_file=path, validation_split_percentage=0).train
    return tokenize(documents, tokenizer)


def tokenized(path: str, _: str, tokenizer: str) -> dict[str, float]:
    start = time.perf_counter()
    store = store_of(path, load_tokenizer(tokenizer))
    return {"seconds": time.perf_counter() - start, "tokens": store.n_tokens}


def indexed(path: str, _: str, tokenizer_name: str) -> dict[str, float]:
    tokenizer = load_tokenizer(tokenizer_name)
    store = store_of(path, tokenizer)
    before, start = peak(), time.perf_counter()
    SuffixIndex(store, boundaries=boundaries_of(tokenizer))
    seconds, most = time.perf_counter() - start, peak()
    return {
        "seconds": seconds,
        "peak of memory, MB": most / 1e6,
        "peak of memory without the index, MB": before / 1e6,
        "bytes of text a token": os.path.getsize(path) / store.n_tokens,
    }


def allocated(path: str, _: str, tokenizer_name: str) -> dict[str, float]:
    """Without the pages of the mapped file of tokens, which the system may take back."""
    tokenizer = load_tokenizer(tokenizer_name)
    store = store_of(path, tokenizer)
    tracemalloc.start()
    index = SuffixIndex(store, boundaries=boundaries_of(tokenizer))
    kept, most = tracemalloc.get_traced_memory()
    return {
        "bytes a token at the peak": most / index.n_tokens,
        "bytes a token afterwards": kept / index.n_tokens,
    }


def queried(path: str, held_out: str, tokenizer_name: str) -> dict[str, float]:
    tokenizer = load_tokenizer(tokenizer_name)
    store = store_of(path, tokenizer)
    index = SuffixIndex(store, boundaries=boundaries_of(tokenizer))
    ids = tokenizer(Path(held_out).read_text(encoding="utf-8"))["input_ids"]
    start = time.perf_counter()
    matches = index.matches(ids)
    seconds = time.perf_counter() - start
    result = {"held-out tokens": len(ids), "held-out text, seconds": seconds}
    result["held-out text, longest span"] = index.longest(ids, matches).length
    times = []
    for at in range(0, QUERIES * QUERY_TOKENS, QUERY_TOKENS):
        start = time.perf_counter()
        index.longest(ids[at : at + QUERY_TOKENS])
        times.append(time.perf_counter() - start)
    result[f"a text of {QUERY_TOKENS} tokens, median ms"] = 1e3 * statistics.median(times)
    for limit in LIMITS:  # what one text costs at each token, of text that is all in the index
        known = store.tokens(1000, 1000 + STEPS + limit)
        start = time.perf_counter()
        for at in range(STEPS):
            index.followers(known[at : at + limit])
        mean = (time.perf_counter() - start) / STEPS
        result[f"max_verbatim {limit}, a token of one text, ms"] = 1e3 * mean
    return result


if __name__ == "__main__":
    main()
