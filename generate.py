"""Generate text from a model: `python generate.py --help`."""

import sys

from gpt2ft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
