"""Fine-tune a causal language model: `python train.py --help`."""

import sys

from gpt2ft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
