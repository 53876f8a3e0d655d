"""Our generation against `model.generate` and CTranslate2, in ABBA order.

    python benchmarks/vs_generate.py --json vs_generate.json

GPT-2 124M from `GPT2Config()` with random weights, prompts of 16 random tokens, 100 new ones, top-k
50, top-p 0.95, no end of text. Tokens per second of the whole batch, the prompt's reading included;
a block is a process of its own that generates once to warm up and then three times. CTranslate2, if
it is installed, takes part in fp32 and int8 (it has no bf16 here). `--precision int8` is ours in
int8 beside CTranslate2 in int8, and beside `model.generate` in bf16, which has no int8.
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
from typing import Any

import torch
import transformers

from gpt2ft import Sampling, generate_tokens, keep_freed_memory
from gpt2ft.generation.ready_model import make_ready
from gpt2ft.precision import resolve_precision

PROMPT, NEW, REPEATS = 16, 100, 3
END = 50256


def new_model() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    model.generation_config.eos_token_id = None
    return model


def prompts(batch: int) -> torch.Tensor:
    return torch.randint(0, END, (batch, PROMPT), generator=torch.Generator().manual_seed(1))


def ours(batch: int, precision: str) -> Any:
    resolved = resolve_precision(precision, torch.device("cpu"))
    model = make_ready(new_model(), resolved)
    keep_freed_memory()
    ids = prompts(batch).tolist()

    def once() -> int:
        sampling = Sampling(max_new_tokens=NEW, temperature=1.0, top_k=50, top_p=0.95)
        steps = generate_tokens(model, ids, sampling, seeds=range(batch))
        return sum(len(step.tokens) for step in steps)

    return once


def hugging_face(batch: int, precision: str) -> Any:
    model = new_model().to(torch.bfloat16 if precision == "bf16" else torch.float32)
    ids = prompts(batch)

    def once() -> int:
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=True,
            top_k=50,
            top_p=0.95,
            pad_token_id=END,
        )
        return (out.shape[1] - PROMPT) * batch

    return once


def ctranslate2(batch: int, precision: str) -> Any:
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        model = new_model()
        model.save_pretrained(f"{folder}/hf")
        vocabulary = {f"t{i}": i for i in range(END)} | {"<|endoftext|>": END}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=_words(vocabulary),
            bos_token="<|endoftext|>",
            eos_token="<|endoftext|>",
            unk_token="<|endoftext|>",
        )
        tokenizer.save_pretrained(f"{folder}/hf")
        converter = ctranslate2.converters.TransformersConverter(f"{folder}/hf")
        converter.convert(f"{folder}/ct2", quantization=precision)
        generator = ctranslate2.Generator(f"{folder}/ct2", compute_type=precision)
    starts = [[f"t{i}" for i in row] for row in prompts(batch).tolist()]

    def once() -> int:
        results = generator.generate_batch(
            starts,
            max_length=NEW,
            min_length=NEW,
            sampling_topk=50,
            sampling_topp=0.95,
            include_prompt_in_result=False,
        )
        return sum(len(result.sequences_ids[0]) for result in results)

    return once


def _words(vocabulary: dict[str, int]) -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))


THEIRS = {
    "CTranslate2": {"bf16": "int8", "fp32": "float32", "int8": "int8"},
    "model.generate": {"bf16": "bf16", "fp32": "fp32", "int8": "bf16"},
}
RUNS = {"ours": ours, "model.generate": hugging_face, "CTranslate2": ctranslate2}


def run_here(name: str, batch: int, precision: str) -> None:
    transformers.logging.set_verbosity_error()
    once = RUNS[name](batch, precision)
    once()
    rates = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        n = once()
        rates.append(n / (time.perf_counter() - start))
    print(json.dumps(statistics.median(rates)))


def run(name: str, batch: int, precision: str) -> float:
    flags = ["--run", name, "--batch", str(batch), "--precision", precision]
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def compare(batch: int, precision: str, other: str, pairs: int) -> dict[str, Any]:
    theirs = THEIRS[other][precision]
    order = (["ours", other, other, "ours"] * pairs)[: 2 * pairs]
    rates = [(name, run(name, batch, precision if name == "ours" else theirs)) for name in order]
    ratios = []
    for pair in zip(rates[::2], rates[1::2], strict=True):
        rate = dict(pair)
        ratios.append(rate["ours"] / rate[other])
    medians = {n: statistics.median(r for name, r in rates if name == n) for n in ("ours", other)}
    print(
        f"batch {batch:>2}, {precision}: ours {medians['ours']:7.1f} tok/s, {other}"
        f"{f' {theirs}' if theirs != precision else ''} {medians[other]:7.1f}: "
        f"{statistics.median(ratios):.2f} times, pairs from {min(ratios):.2f} to {max(ratios):.2f}",
        flush=True,
    )
    result = {"batch": batch, "precision": precision, "other": other, "ratios": ratios}
    return {**result, "tokens_per_second": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--others", nargs="+", default=["model.generate", "CTranslate2"])
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--json")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_here(args.run, args.batch[0], args.precision[0])
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    results = [
        compare(batch, precision, other, args.pairs)
        for precision, batch, other in itertools.product(args.precision, args.batch, args.others)
    ]
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
