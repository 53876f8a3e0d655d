"""Whether a greedy text is the one that `model.generate` writes, token by token.

    python benchmarks/greedy.py ../shared/data/stories260k/hf --prompt "Once upon a time"

Cached and not, alone and in a batch with other prompts. Exit status 0 if all are the same.
"""

import argparse
import sys

import torch

from gpt2ft import generate, load_model, load_tokenizer
from gpt2ft.generation.text import encode_prompt
from gpt2ft.system.terminal import silence_libraries

OTHERS = ["The", "A girl and her dog went to the"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--max_new_tokens", type=int, default=300)
    args = parser.parse_args()
    silence_libraries()
    model, tokenizer = load_model(args.model), load_tokenizer(args.model)
    ids = torch.tensor([encode_prompt(tokenizer, args.prompt)])
    settings = {"max_new_tokens": args.max_new_tokens, "do_sample": False}
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.pad_token_id, **settings
    )[0, ids.shape[1] :].tolist()
    ways = {
        "alone": ([args.prompt], {}),
        "without a cache": ([args.prompt], {"use_cache": False}),
        "in a batch": ([args.prompt, *OTHERS], {}),
    }
    right = True
    for name, (prompts, options) in ways.items():
        ours = next(generate(model, tokenizer, prompts, **settings, **options)).tokens
        same = sum(a == b for a, b in zip(ours, theirs, strict=False))
        right &= ours == theirs
        print(f"{name:<16} {same} of {len(theirs)} tokens the same")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
