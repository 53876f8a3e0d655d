"""Whether a greedy text is the one that `model.generate` writes, token by token.

    python benchmarks/greedy.py ../shared/data/stories260k/hf --prompt "Once upon a time"

Cached and not, alone and in a batch with other prompts. Exit status 0 if all are the same.
"""

import argparse
import sys

import torch

from gpt2ft import Sampling, generate_tokens, load_model, load_tokenizer
from gpt2ft.generation.sampling import ENDED
from gpt2ft.generation.text import encode_prompt, end_tokens
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
    sampling = Sampling(max_new_tokens=args.max_new_tokens, do_sample=False)
    theirs = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=args.max_new_tokens,
        do_sample=False,
    )[0, ids.shape[1] :].tolist()
    ways = {
        "alone": ([args.prompt], True),
        "without a cache": ([args.prompt], False),
        "in a batch": ([args.prompt, *OTHERS], True),
    }
    right = True
    for name, (prompts, use_cache) in ways.items():
        steps = generate_tokens(
            model,
            [encode_prompt(tokenizer, prompt) for prompt in prompts],
            sampling,
            eos_token_id=end_tokens(model, tokenizer),
            use_cache=use_cache,
        )
        ours = [token for step in steps if (token := int(step.tokens[0])) != ENDED]
        same = sum(a == b for a, b in zip(ours, theirs, strict=False))
        right &= ours == theirs
        print(f"{name:<16} {same} of {len(theirs)} tokens the same")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
