"""Another optimizer: Adafactor (Shazeer and Stern, 2018), with a schedule of your own.

    python examples/another_optimizer.py MODEL TEXT [STEPS]

Any optimizer of torch will do. Its state is in the checkpoints like AdamW's, so that the run below
goes on where it was stopped if you start it again.
"""

import math
import sys

import torch

import gpt2ft

FOLDER = "gpt2-finetuned-adafactor"


def inverse_square_root(step: int) -> float:
    """The learning rate of the step that follows so many earlier ones."""
    return 1e-3 * min((step + 1) / 10, math.sqrt(10 / (step + 1)))


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    corpus = gpt2ft.load_corpus(train_file=[text], validation_split_percentage=0)
    blocks = gpt2ft.Blocks(gpt2ft.tokenize(corpus.train, tokenizer), 64)
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    data = gpt2ft.Batches(blocks, collate, batch_size=8, seed=0)
    optimizer = torch.optim.Adafactor(gpt2ft.parameter_groups(model, weight_decay=0.01))
    state = gpt2ft.TrainState.create(model, optimizer)
    checkpoint, _ = gpt2ft.find_checkpoint(FOLDER)
    if checkpoint:
        gpt2ft.load_checkpoint(checkpoint, state)
        print(f"resumed at step {state.step}")
    for result in gpt2ft.train(
        state, data, max_steps=n_steps, learning_rate=inverse_square_root, max_grad_norm=1.0
    ):
        if result.step % 10 == 0:
            print(f"step {result.step} loss {result.loss:.4f} lr {result.learning_rate:.2e}")
            gpt2ft.save_checkpoint(FOLDER, state, tokenizer=tokenizer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
