"""`python -m gpt2ft` is the command `gpt2ft`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
