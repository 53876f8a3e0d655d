"""Fine-tune a causal language model: `python train.py --help`."""

import sys

from gpt2ft.cli.main import train_main

if __name__ == "__main__":
    sys.exit(train_main())
