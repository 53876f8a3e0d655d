"""Generate text from a model: `python generate.py --help`."""

import sys

from gpt2ft.cli.main import generate_main

if __name__ == "__main__":
    sys.exit(generate_main())
