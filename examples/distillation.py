"""Knowledge distillation (Hinton et al., 2015): a small model learns what a larger one would say.

    python examples/distillation.py TEACHER TEXT [STEPS]

The student is new, has a quarter of the teacher's layers, and the teacher's tokenizer. Its loss is
half the usual one, and half the divergence from the teacher's probabilities at a temperature. Saves
to ./gpt2-finetuned-student.
"""

import sys
from collections.abc import Mapping

import torch
import torch.nn.functional as F

import gpt2ft
from gpt2ft.loop import LossFunction

TEMPERATURE, SHARE = 2.0, 0.5


def distillation_loss(teacher: torch.nn.Module) -> LossFunction:
    def loss(student: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        targets = batch["labels"][:, 1:].flatten()
        with torch.no_grad():
            wanted = teacher(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        logits = student(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        divergence = F.kl_div(
            (logits / TEMPERATURE).log_softmax(-1),
            (wanted / TEMPERATURE).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)
        soft = (
            divergence[targets != -100].sum() * TEMPERATURE**2
        )  # T squared: else a higher temperature would make its gradient smaller
        hard = F.cross_entropy(logits, targets, reduction="sum")
        return SHARE * soft + (1 - SHARE) * hard

    return loss


def main(teacher_name: str, text: str, n_steps: int = 100) -> None:
    teacher, tokenizer = gpt2ft.load_model(teacher_name), gpt2ft.load_tokenizer(teacher_name)
    config = teacher.config
    sizes = {"n_layer": max(1, config.n_layer // 4), "n_head": config.n_head}
    sizes |= {"n_embd": config.n_embd, "vocab_size": config.vocab_size}
    overrides = ",".join(f"{name}={value}" for name, value in sizes.items())
    student = gpt2ft.new_model("gpt2", tokenizer=tokenizer, overrides=overrides)

    corpus = gpt2ft.load_corpus(train_file=[text], validation_split_percentage=0)
    blocks = gpt2ft.Blocks(gpt2ft.tokenize(corpus.train, tokenizer), 64)
    collate = gpt2ft.CausalLMCollator(tokenizer.pad_token_id)
    data = gpt2ft.Batches(blocks, collate, batch_size=8, seed=0)
    state = gpt2ft.TrainState.create(student, gpt2ft.build_optimizer(student, learning_rate=1e-3))
    loss_fn = distillation_loss(teacher)
    for result in gpt2ft.train(state, data, max_steps=n_steps, max_grad_norm=1.0, loss_fn=loss_fn):
        if result.step % 10 == 0:
            print(f"step {result.step} loss {result.loss:.4f}")
    student.save_pretrained("gpt2-finetuned-student")
    tokenizer.save_pretrained("gpt2-finetuned-student")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])) if sys.argv[2:] else print(__doc__)
