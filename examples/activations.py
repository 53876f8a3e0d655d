"""What happens inside: how large the activations of each block are while the model learns.

    python examples/activations.py MODEL TEXT [STEPS]

Hooks are torch's own, put on before the loop and read in its body. For models of GPT-2's
architecture; the root mean square of each block's output goes to activations.csv.
"""

import csv
import sys
from typing import Any

import torch

import gpt2ft


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    corpus = gpt2ft.load_corpus(train_file=[text], validation_split_percentage=0)
    blocks = gpt2ft.Blocks(gpt2ft.tokenize(corpus.train, tokenizer), 64)
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    data = gpt2ft.Batches(blocks, collate, batch_size=8, seed=0)

    sizes: dict[str, torch.Tensor] = {}

    def watch(name: str, block: torch.nn.Module) -> None:
        def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            sizes[name] = hidden.detach().float().square().mean().sqrt()  # waits for nothing

        block.register_forward_hook(note)

    for number, block in enumerate(model.transformer.h):
        watch(f"block {number}", block)

    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-4))
    with open("activations.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        for result in gpt2ft.train(state, data, max_steps=n_steps, max_grad_norm=1.0):
            if result.step == 1:
                table.writerow(["step", "loss", *sizes])
            if result.step % 10 == 0:
                values = [f"{float(size):.4f}" for size in sizes.values()]
                table.writerow([result.step, f"{result.loss:.4f}", *values])
                print(f"step {result.step} loss {result.loss:.4f} activations", *values)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
