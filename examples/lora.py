"""LoRA (Hu et al., 2021): the weights stay, and a product of two thin matrices is learned.

    python examples/lora.py MODEL TEXT [STEPS]

For models of GPT-2's architecture, whose linear layers are `Conv1D`. In the end the products are
added to the weights: what is saved is a usual model. Saves to ./gpt2-finetuned-lora.
"""

import sys

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import gpt2ft

RANK, ALPHA = 8, 16


class LoRA(nn.Module):
    """A linear layer that is frozen, and what is added to it."""

    def __init__(self, layer: Conv1D) -> None:
        super().__init__()
        n_in, n_out = layer.weight.shape
        self.layer = layer
        self.down = nn.Parameter(torch.randn(n_in, RANK) / RANK)
        self.up = nn.Parameter(torch.zeros(RANK, n_out))  # at first nothing is added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self.layer(x)
        return kept + x @ self.down @ self.up * (ALPHA / RANK)

    def merged(self) -> Conv1D:
        with torch.no_grad():
            self.layer.weight.add_(self.down @ self.up, alpha=ALPHA / RANK)
        return self.layer


def main(model_name: str, text: str, n_steps: int = 100) -> None:
    torch.manual_seed(0)
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    model.requires_grad_(False)
    for block in model.transformer.h:
        block.attn.c_attn = LoRA(block.attn.c_attn)
        block.attn.c_proj = LoRA(block.attn.c_proj)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"training {n_trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters")

    corpus = gpt2ft.load_corpus(train_file=[text], validation_split_percentage=0)
    blocks = gpt2ft.Blocks(gpt2ft.tokenize(corpus.train, tokenizer), 64)
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    data = gpt2ft.Batches(blocks, collate, batch_size=8, seed=0)
    # Only what requires a gradient gets moments, and is counted in its norm.
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-3))
    for result in gpt2ft.train(state, data, max_steps=n_steps, max_grad_norm=1.0):
        if result.step % 10 == 0:
            print(f"step {result.step} loss {result.loss:.4f}")

    for block in model.transformer.h:
        block.attn.c_attn = block.attn.c_attn.merged()
        block.attn.c_proj = block.attn.c_proj.merged()
    model.save_pretrained("gpt2-finetuned-lora")
    tokenizer.save_pretrained("gpt2-finetuned-lora")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
