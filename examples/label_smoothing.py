"""A loss of your own: label smoothing (Szegedy et al., 2016).

    python examples/label_smoothing.py MODEL TEXT [STEPS]

The loop takes any function from model and batch to a summed loss. Saves to
./gpt2-finetuned-smoothed.
"""

import sys
from collections.abc import Mapping

import torch
import torch.nn.functional as F

import gpt2ft

SMOOTHING = 0.1


def smoothed_loss(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    targets = batch["labels"][:, 1:].flatten()
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=SMOOTHING)


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    corpus = gpt2ft.load_corpus(train_file=[text])
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    train_blocks, held_out_blocks = (
        gpt2ft.Blocks(gpt2ft.tokenize(part, tokenizer), 64)
        for part in (corpus.train, corpus.validation)
    )
    data = gpt2ft.Batches(train_blocks, collate, batch_size=8, seed=0)
    held_out = gpt2ft.Batches(held_out_blocks, collate, batch_size=8)

    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-4))
    for result in gpt2ft.train(
        state, data, max_steps=n_steps, max_grad_norm=1.0, loss_fn=smoothed_loss
    ):
        if result.step % 10 == 0:
            plain = gpt2ft.evaluate(model, held_out)  # of the labels as they are
            print(f"step {result.step} loss {result.loss:.4f} perplexity {plain.perplexity:.2f}")
    model.save_pretrained("gpt2-finetuned-smoothed")
    tokenizer.save_pretrained("gpt2-finetuned-smoothed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
