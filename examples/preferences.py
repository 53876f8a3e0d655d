"""Preferences: DPO (Rafailov et al., 2023) on pairs of a better and a worse answer.

    python examples/preferences.py MODEL PAIRS.jsonl [STEPS]

Each line is {"prompt": "...", "chosen": "...", "rejected": "..."}; the loss is a mean over pairs.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import gpt2ft
from gpt2ft.loop import Batch, LossFunction

BETA, LENGTH, PAIRS, FIELDS = 0.1, 128, 4, ("prompt", "chosen", "rejected")


class Pairs:
    """Micro-batches of pairs: in even rows the better answers, below each the worse one."""

    def __init__(self, records: Iterable[dict[str, str]], tokenizer: Any) -> None:
        self.pairs, self.collate = [], gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
        for record in records:
            prompt, *answers = (tokenizer(record[name])["input_ids"] for name in FIELDS)
            texts = [[*prompt, *answer, tokenizer.eos_token_id][:LENGTH] for answer in answers]
            n, masked = len(prompt), [-100] * len(prompt)
            self.pairs.append([{"input_ids": t, "labels": masked + t[n:]} for t in texts])

    def __len__(self) -> int:
        return -(-len(self.pairs) // PAIRS)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, torch.Tensor]:
        return self.collate([s for n in self.sample_numbers(*position) for s in self.pairs[n]])

    def sample_numbers(self, epoch: int, index: int) -> list[int]:
        return list(range(len(self.pairs)))[index * PAIRS : (index + 1) * PAIRS]  # as in the file


def log_probabilities(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The log-probability of each answer, summed over its tokens: `(B,)`."""
    logits = model(batch["input_ids"], use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.mT, batch["labels"][:, 1:], reduction="none")
    return -losses.sum(-1)


def count_pairs(batch: Batch) -> int:
    return len(batch["input_ids"]) // 2


def preference_loss(reference: torch.nn.Module) -> LossFunction:
    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            before = log_probabilities(reference, batch)
        gained = log_probabilities(model, batch) - before
        return -torch.nn.functional.logsigmoid(BETA * (gained[::2] - gained[1::2])).sum()

    return loss


def main(model_name: str, file: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    data = Pairs(map(json.loads, Path(file).read_text("utf-8").splitlines()), tokenizer)
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-4))
    loss_fn = preference_loss(gpt2ft.load_model(model_name))
    for result in gpt2ft.train(
        state, data, max_steps=n_steps, max_grad_norm=1.0, loss_fn=loss_fn, count_fn=count_pairs
    ):
        if result.step % 10 == 0:
            print(f"step {result.step} loss {result.loss:.4f} over {result.n_targets} pairs")
    model.save_pretrained("gpt2-finetuned-preferences")
    tokenizer.save_pretrained("gpt2-finetuned-preferences")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
