"""A curriculum: lines from short to long in the first epoch, later in any order.

    python examples/curriculum.py MODEL TEXT [STEPS]

The loop takes anything with a length, micro-batches by (epoch, index), and their sample numbers. As
the order depends on these two numbers alone, a stopped run could go on at the same place. Saves to
./gpt2-finetuned-curriculum.
"""

import sys

import numpy as np
import torch

import gpt2ft

BATCH = 8


class ShortToLong:
    """Micro-batches of rows; in the first epoch the shortest rows come first."""

    def __init__(self, rows: gpt2ft.Rows, collate: gpt2ft.CausalLMCollator) -> None:
        self.rows, self.collate = rows, collate
        self.by_length = np.argsort(rows.lengths, kind="stable")

    def __len__(self) -> int:
        return -(-len(self.rows) // BATCH)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, torch.Tensor]:
        return self.collate([self.rows[number] for number in self.sample_numbers(*position)])

    def sample_numbers(self, epoch: int, index: int) -> list[int]:
        if epoch == 0:
            order = self.by_length
        else:
            order = np.random.default_rng(epoch).permutation(len(self.rows))
        return [int(number) for number in order[index * BATCH : (index + 1) * BATCH]]


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    corpus = gpt2ft.load_corpus(train_file=[text], validation_split_percentage=0, lines=True)
    rows = gpt2ft.Rows(gpt2ft.tokenize(corpus.train, tokenizer), 64)
    data = ShortToLong(rows, gpt2ft.CausalLMCollator(tokenizer.pad_token_id))
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-4))
    for result in gpt2ft.train(state, data, max_steps=n_steps, max_grad_norm=1.0):
        if result.step % 10 == 0:
            place = divmod(result.batches[-1], len(data))  # epoch, and index in it
            lengths = rows.lengths[data.sample_numbers(*place)]
            sizes = f"from {lengths.min()} to {lengths.max()} tokens"
            print(f"step {result.step} loss {result.loss:.4f} rows {sizes}")
    model.save_pretrained("gpt2-finetuned-curriculum")
    tokenizer.save_pretrained("gpt2-finetuned-curriculum")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
