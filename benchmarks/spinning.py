"""What it costs, and gains, that threads which wait for each other soon sleep.

    python benchmarks/spinning.py
    python benchmarks/spinning.py --busy

With `--busy` another process computes on one core, as on a laptop that does something else too.
Each block is a `train.py` of its own, in ABBA order: A spins as long as libgomp does by default, B
as `train.py` has it unless the environment says otherwise. Printed are the tokens a second that
the runs show, of `gpt2-mini` and of GPT-2 124M with new weights; 0 if a run took too long.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

TRAIN = Path(__file__).parent.parent / "train.py"
POLICIES = {"by default": {"GOMP_SPINCOUNT": "300000"}, "ours": {}}
DATA = ["--dataset_name", "python-reference", "--validation_split_percentage", "0.1"]
MODELS = {
    "gpt2-mini": ["--model_name_or_path", "gpt2-mini", "--block_size", "128"],
    "GPT-2 124M": [
        *("--model_type", "gpt2", "--tokenizer_name", "gpt2-mini", "--block_size", "64"),
        *("--config_overrides", "vocab_size=50257"),
    ],
}
OTHER_WORK = "while True: pass"


def tokens_per_second(flags: list[str], policy: dict[str, str], *, steps: int, limit: int) -> float:
    """Of the second half of a run; 0 if it does not end in `limit` seconds."""
    unset = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {k: v for k, v in os.environ.items() if k not in unset} | policy
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TRAIN), *DATA, *flags, "--output_dir", f"{folder}/run"]
        command += ["--max_steps", str(steps), "--logging_steps", str(steps // 2)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return 0.0
    return float(re.findall(r"([\d,]+) tok/s", done.stdout)[-1].replace(",", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", action="store_true", help="another process computes")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs=2, default=(60, 8), help="of each model")
    parser.add_argument("--limit", type=int, default=200, help="seconds a run may take")
    arguments = parser.parse_args()
    other = subprocess.Popen([sys.executable, "-c", OTHER_WORK]) if arguments.busy else None
    try:
        for (name, flags), steps in zip(MODELS.items(), arguments.steps, strict=True):
            rates: dict[str, list[float]] = {policy: [] for policy in POLICIES}
            for pair in range(arguments.pairs):
                for policy in list(POLICIES)[:: -1 if pair % 2 else 1]:
                    rate = tokens_per_second(
                        flags, POLICIES[policy], steps=steps, limit=arguments.limit
                    )
                    rates[policy].append(rate)
            shown = (
                f"{policy} {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
                for policy, found in rates.items()
            )
            print(f"{name:<12} tokens a second: {', '.join(shown)}", flush=True)
    finally:
        if other:
            other.kill()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")


if __name__ == "__main__":
    main()
