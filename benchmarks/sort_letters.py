"""Sort all 729 words of six letters A, B, C with the really trained gpt-nano-sort, greedily.

    python benchmarks/sort_letters.py ../shared/data/gpt-nano-sort/hf

An exact right answer for every input; token id 0 is the letter A, which code that takes id 0 for
padding gets wrong. Exit status 0 if all are sorted.
"""

import itertools
import sys
import time

from gpt2ft import Sampling, generate, load_model, load_tokenizer
from gpt2ft.system.terminal import silence_libraries


def main() -> int:
    silence_libraries()
    model, tokenizer = load_model(sys.argv[1]), load_tokenizer(sys.argv[1])
    words = ["".join(letters) for letters in itertools.product("ABC", repeat=6)]
    start = time.perf_counter()
    sampling = Sampling(max_new_tokens=6, do_sample=False)
    answers = list(generate(model, tokenizer, words, sampling, batch_size=len(words)))
    seconds = time.perf_counter() - start
    right = sum(answer.text == "".join(sorted(answer.prompt)) for answer in answers)
    print(f"{right} of {len(words)} sorted, in {seconds:.1f} s")
    return 0 if right == len(words) else 1


if __name__ == "__main__":
    sys.exit(main())
