"""Only the completions are learned: of the prompts no token is a target.

    python examples/completions.py MODEL RECORDS.jsonl [STEPS]

Each line of the file is {"prompt": "...", "completion": "..."}. A sample may bring labels of its
own, -100 where nothing is to be predicted; the collator pads them with the tokens. Saves to
./gpt2-finetuned-completions.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpt2ft

LENGTH = 128


class Completions:
    """Samples of prompt and completion, as `gpt2ft.Batches` takes them."""

    def __init__(self, records: Iterable[dict[str, str]], tokenizer: Any) -> None:
        self.samples = []
        for record in records:
            prompt, completion = (
                tokenizer(record[name])["input_ids"] for name in ("prompt", "completion")
            )
            ids = torch.tensor([*prompt, *completion, tokenizer.eos_token_id][:LENGTH])
            labels = ids.clone()
            labels[: len(prompt)] = -100
            if (labels[1:] != -100).any():  # else the prompt fills the sample
                self.samples.append({"input_ids": ids, "labels": labels})
        self.lengths = np.array([len(sample["input_ids"]) for sample in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return self.samples[number]


def main(model_name: str, file: str, n_steps: int = 100) -> None:
    model, tokenizer = gpt2ft.load_model(model_name), gpt2ft.load_tokenizer(model_name)
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    samples = Completions(map(json.loads, lines), tokenizer)
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    data = gpt2ft.Batches(samples, collate, batch_size=8, seed=0)
    state = gpt2ft.TrainState.create(model, gpt2ft.build_optimizer(model, learning_rate=1e-3))
    for result in gpt2ft.train(state, data, max_steps=n_steps, max_grad_norm=1.0):
        if result.step % 10 == 0:
            n_targets = int(result.n_targets)
            print(f"step {result.step} loss {result.loss:.4f} over {n_targets} tokens")
    model.save_pretrained("gpt2-finetuned-completions")
    tokenizer.save_pretrained("gpt2-finetuned-completions")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
