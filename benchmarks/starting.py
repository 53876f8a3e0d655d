"""How long it takes from the command to the first token: python benchmarks/starting.py

Each round starts in turn `generate.py` for one token of gpt2-mini, what it cannot do without
(`import torch` and the classes of GPT-2 in transformers), and `import torch, transformers`, which
loads few of transformers' modules. On a machine that does something else too, compare ratios.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLASSES = "from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel"
COMMANDS = {
    "first token": [
        *("generate.py", "--model_name_or_path", "gpt2-mini", "-p", "Once", "--seed", "1"),
        *("--max_new_tokens", "1"),
    ],
    "GPT-2's classes": ["-c", f"import torch; {CLASSES}"],
    "torch, transformers": ["-c", "import torch, transformers"],
}


def seconds(arguments: list[str]) -> float:
    """From the start of the process to its end, which follows the first token at once."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for arguments in COMMANDS.values():  # so that all files were read once
        seconds(arguments)
    times = [
        {name: seconds(arguments) for name, arguments in COMMANDS.items()} for _ in range(rounds)
    ]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{platform.machine()}, {libraries}, {rounds} rounds, medians")
    first, *others = COMMANDS
    for name in COMMANDS:
        print(f"{name:<22}{statistics.median(t[name] for t in times):6.2f} s")
    for name in others:
        ratios = [t[first] / t[name] for t in times]
        print(
            f"{first} / {name}: {statistics.median(ratios):.2f}, "
            f"rounds from {min(ratios):.2f} to {max(ratios):.2f}"
        )


if __name__ == "__main__":
    main()
