"""Training on 1 to 1,024 GPUs, on paper: what fits, what a step takes, and where the design breaks.

    python benchmarks/plan_scale.py TEXT

Parameters are counted from the models that transformers makes. What is assumed stands in
`Assumptions`. What can be measured on this machine is measured first: the rate of the tokenizer on
one core, bytes of text for a token (both on TEXT, with GPT-2's tokenizer, or another that
--tokenizer names), and the rate of sha256. `benchmarks/plan_checks.py` compares the formulas with
what happens.
"""

import argparse
import dataclasses
import hashlib
import math
import os
import sys
import time
from pathlib import Path

import torch
import transformers

import gpt2ft
from gpt2ft.data.order import KeyedOrder
from gpt2ft.parallel.gradient_sum import BUCKET

HOUR, DAY, GB, TB = 3600.0, 86400.0, 1e9, 1e12


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What was not measured here."""

    flops: float = 0.4 * 989e12
    """Of a GPU: 40 % of the bf16 rate that NVIDIA gives for an H100."""
    memory: float = 80 * GB
    inside: float = 450 * GB
    """Bytes a second that a GPU sends to others of its machine (NVLink)."""
    between: float = 50 * GB
    """Bytes a second that a GPU sends to other machines (400 Gb/s for each)."""
    disk: float = 2 * GB
    """Bytes a second that a machine writes to, and reads from, the shared file system."""
    gpus: int = 8
    """Of a machine."""
    failure: float = 10_000 * HOUR
    """Mean time until one GPU fails."""
    start: float = 60.0
    """Seconds until all processes have started and met."""
    row: float = 4096.0
    """Bytes of text in a row of the corpus."""
    critical_batch: float = 4e6
    """Tokens of a step beyond which more of them hardly help (GPT-3 used 3.2 M)."""


NAMES = ("124M", "1.5B", "7B")  # GPT-2, GPT-2 XL, Llama 2
LENGTH, ROWS = 1024, 8


def make(name):
    """The model, without memory."""
    with torch.device("meta"):
        if name == "7B":
            return transformers.LlamaForCausalLM(transformers.LlamaConfig())
        large = {"n_layer": 48, "n_embd": 1600, "n_head": 25} if name == "1.5B" else {}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**large))


class Plan:
    """One model on W GPUs, one micro-batch of ROWS x LENGTH tokens a GPU and step."""

    def __init__(self, name, world, sharded, a, hash_rate):
        model = make(name)
        config = model.config
        self.a, self.world, self.sharded, self.hash_rate = a, world, sharded, hash_rate
        self.n = sum(p.numel() for p in model.parameters())
        self.layers, self.width = config.num_hidden_layers, config.hidden_size
        self.vocabulary = config.vocab_size
        blocks = gpt2ft.models.probe.blocks(model)
        self.block = sum(p.numel() for p in blocks[0].parameters())
        self.root = self.n - self.layers * self.block
        self.tokens = ROWS * LENGTH

    def memory(self):
        """Bytes on a GPU, by what they are for."""
        held = 16 * self.n / (self.world if self.sharded else 1)
        copies = 2 * self.n  # what autocast makes of the weights, kept for the backward pass
        # Korthikanti et al. 2022, with attention that stores no matrix.
        activations = 34 * self.tokens * self.width * self.layers
        head = 2048 * self.vocabulary * 6  # rows of logits, in bf16 and fp32
        if self.sharded:  # a group that is gathered, the next one, and gradients of both
            exchange = 4 * 4 * max(self.block, self.root)
        else:
            exchange = 5 * 4 * BUCKET if self.world > 1 else 0
        return {"held": held + copies, "activations": activations + head, "exchange": exchange}

    def sent(self):
        """Bytes that a GPU sends in a step."""
        if self.world == 1:
            return 0.0
        share = (self.world - 1) / self.world
        if self.sharded:  # weights twice, gradients once, in fp32
            return 3 * 4 * self.n * share
        return sent_by_tree(self.n, self.world)

    def seconds(self):
        """Of a step: computing, sending, and both as they overlap."""
        matrices = self.n - (0 if self.vocabulary == 50257 else self.vocabulary * self.width)
        flops = 6 * matrices + 6 * self.layers * self.width * LENGTH
        compute = flops * self.tokens / self.a.flops
        wire = self.sent() / (self.a.inside if self.world <= self.a.gpus else self.a.between)
        return compute, wire, max(compute, wire) if self.sharded else compute + wire

    def machines(self):
        return max(1, self.world // self.a.gpus)

    def save(self):
        """Seconds of a checkpoint: written by one machine, or by all; hashed by process 0."""
        writers = self.machines() if self.sharded else 1
        return 12 * self.n / (self.a.disk * writers) + 8 * self.n / self.hash_rate

    def resume(self):
        """Seconds until the first step: start, verify, read."""
        part = 1 / self.machines() if self.sharded else 1
        return self.a.start + 8 * self.n / self.hash_rate + 12 * self.n * part / self.a.disk

    def failures(self):
        """Best interval of saving in seconds (Young, 1974), and what part of the time is lost."""
        between = self.a.failure / self.world
        interval = math.sqrt(2 * self.save() * between)
        lost = self.save() / interval + (interval / 2 + self.resume()) / between
        return interval, lost


def sent_by_tree(n, world, n_nodes=1):
    """Bytes that a process sends for the fp32 sum of n numbers, as `gradient_sum` exchanges them.

    Of each bucket a W-th to each other process for each node of the tree that it has (one, if its
    micro-batches are a power of two), and its own sum to all.
    """
    total = 0
    for start in range(0, n, BUCKET):
        length = -(-min(BUCKET, n - start) // world)
        total += (n_nodes + 1) * (world - 1) * length * 4
    return total


def tables(a, rates):
    """The tables of models, and of text."""
    plans = []
    print("| model | GPUs | weights | held GB | activations | exchange | fits | compute s | "
          "wire s | tokens/s | save s | resume s | save every | lost |")  # fmt: skip
    print("|---" * 14 + "|")
    for name in NAMES:
        for world in (1, 8, 64, 1024):
            for sharded in (False, True)[: 1 + (world > 1)]:
                plan = Plan(name, world, sharded, a, rates["sha256"])
                plans.append((name, plan))
                memory = plan.memory()
                compute, wire, step = plan.seconds()
                interval, lost = plan.failures()
                shown = (f"{memory[part] / GB:.1f}" for part in memory)
                fits = "yes" if sum(memory.values()) < a.memory else "NO"
                print(f"| {name} | {world} | {'divided' if sharded else 'whole'} | "
                      f"{' | '.join(shown)} | {fits} | {compute:.2f} | {wire:.2f} | "
                      f"{world * plan.tokens / step:,.0f} | {plan.save():.0f} | "
                      f"{plan.resume():.0f} | {interval / 60:.0f} min | {lost:.1%} |")  # fmt: skip
    print("\n| text | tokens | on disk | samples | order, array | order, keyed | index on disk | "
          "core hours to tokenize | days of 124M on 8, 64, 1,024 |")  # fmt: skip
    print("|---" * 9 + "|")
    for size in (GB, 100 * GB, 10 * TB):
        tokens = size / rates["bytes a token"]
        days = (
            tokens / (world * p.tokens / p.seconds()[2]) / DAY
            for world in (8, 64, 1024)
            for p in [Plan("124M", world, False, a, rates["sha256"])]
        )
        order = KeyedOrder(int(tokens / LENGTH), seed=0, epoch=0)
        keyed = sum(map(sys.getsizeof, vars(order).values()))
        disk = (size + 4 * tokens) / GB
        print(f"| {size / GB:,.0f} GB | {tokens / 1e9:,.1f} G | {disk:,.0f} GB | "
              f"{len(order) / 1e6:,.1f} M | {8 * len(order) / GB:,.2f} GB | {keyed} B | "
              f"{16 * size / a.row / GB:,.1f} GB | {size / rates['tokenize'] / HOUR:,.0f} | "
              f"{', '.join(f'{d:,.2f}' for d in days)} |")  # fmt: skip
    return plans


def breaks(plans, a, rates):
    """Where the design does not hold, and what then."""
    print("\nWhere it breaks:")
    for name, p in plans:
        what = f"- {name} on {p.world}, {'divided' if p.sharded else 'whole'}:"
        compute, wire, _ = p.seconds()
        total, tokens, lost = sum(p.memory().values()), p.world * p.tokens, p.failures()[1]
        if total > a.memory:
            advice = "fewer rows, --gradient_checkpointing" if p.sharded else "--fsdp, on more GPUs"
            print(f"{what} needs {total / GB:.0f} GB of {a.memory / GB:.0f}: {advice}.")
        if wire > compute:
            advice = "more micro-batches a step, which exchange gradients once"
            if p.sharded:
                advice = "larger micro-batches, or the model whole in each machine (not built)"
            print(f"{what} sends for {wire:.2f} s and computes for {compute:.2f}: {advice}.")
        if tokens > a.critical_batch:
            much = f"{tokens / 1e6:.1f} M tokens, over {a.critical_batch / 1e6:.0f} M"
            print(f"{what} a step has {much}: fewer rows, or fewer GPUs.")
        if lost > 0.03:
            hashing = 8 * p.n / p.hash_rate
            print(f"{what} loses {lost:.0%} of the time to failures and to saving, which takes")
            print(f"  {p.save():.0f} s; {hashing:.0f} s of it is the hash, made by one process.")
    n = 10 * TB / rates["bytes a token"]
    days = 10 * TB / rates["tokenize"] / DAY / 64
    print(
        f"- 10 TB of text are {n / 2**31:,.0f} times 2^31 tokens: positions are int64 everywhere."
    )
    print(f"- 10 TB take {days:.0f} days to tokenize on 64 cores: --streaming does it meanwhile.")


def measured(text, tokenizer):
    """Rates of this machine: bytes of text a token, bytes tokenized a second, bytes hashed."""
    data = Path(text).read_text(encoding="utf-8")
    documents = [data[i : i + 100_000] for i in range(0, len(data), 100_000)]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    start = time.perf_counter()
    store = gpt2ft.tokenize(documents, gpt2ft.load_tokenizer(tokenizer))
    seconds = time.perf_counter() - start
    size = len(data.encode())
    block = bytes(256 << 20)
    start = time.perf_counter()
    hashlib.sha256(block)
    rates = {"bytes a token": size / store.n_tokens, "tokenize": size / seconds}
    rates["sha256"] = len(block) / (time.perf_counter() - start)
    print(f"measured: {rates['bytes a token']:.2f} bytes of text a token, "
          f"{rates['tokenize'] / 1e6:.2f} MB tokenized a second on one core, "
          f"{rates['sha256'] / 1e9:.2f} GB hashed a second\n")  # fmt: skip
    return rates


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("--tokenizer", default="gpt2")
    arguments = parser.parse_args()
    assumed = Assumptions()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; assumed: {assumed}")
    rates = measured(arguments.text, arguments.tokenizer)
    plans = tables(assumed, rates)
    breaks(plans, assumed, rates)


if __name__ == "__main__":
    main()
