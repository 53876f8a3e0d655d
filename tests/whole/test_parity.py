"""The loop learns what the Hugging Face Trainer learns: pytest tests/whole/test_parity.py"""

import pytest
import torch
import transformers
from torch.utils.data import SequentialSampler

from gpt2ft import Batches, CausalLMCollator, TrainState, build_optimizer, lr_at, train
from gpt2ft.precision import Precision

STEPS, BATCH = 24, 4


class Rows:
    """Ninety-six rows of 5 to 40 tokens that count upwards; some hold the pad token, id 0."""

    def __init__(self):
        draw = torch.Generator().manual_seed(3)
        sizes = torch.randint(5, 41, (96,), generator=draw).tolist()
        starts = torch.randint(0, 40, (96,), generator=draw).tolist()
        pairs = zip(starts, sizes, strict=True)
        self.rows = [[(start + i) % 40 for i in range(n)] for start, n in pairs]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index]}


def trainer_losses(model, samples, accumulation, tmp_path):
    """Loss of each step."""

    class Trainer(transformers.Trainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(self.train_dataset)

    def collate(rows):
        width = max(len(row["input_ids"]) for row in rows)
        pad = [width - len(row["input_ids"]) for row in rows]
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": torch.tensor([r + [0] * n for r, n in zip(ids, pad, strict=True)]),
            "labels": torch.tensor([r + [-100] * n for r, n in zip(ids, pad, strict=True)]),
            "attention_mask": torch.tensor(
                [[1] * len(r) + [0] * n for r, n in zip(ids, pad, strict=True)]
            ),
        }

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulation,
        learning_rate=2e-3,
        lr_scheduler_type="linear",
        warmup_steps=3,
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=samples, data_collator=collate)
    # Its log rounds to four digits, so the losses are taken where it makes them.
    losses, sums = [], []
    step = trainer.training_step

    def spy(*args, **kwargs):
        loss = step(*args, **kwargs)
        sums.append(float(loss))
        if len(sums) == accumulation:
            losses.append(sum(sums))
            sums.clear()
        return loss

    trainer.training_step = spy
    trainer.train()
    return losses


@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_losses_equal_the_trainers(kind, accumulation, request, tmp_path):
    """Padded rows, end-of-text as pad token, decay, clipping, warm-up: 24 steps, each to 1e-5."""
    samples = Rows()
    make = request.getfixturevalue(kind)
    model = make()
    data = Batches(samples, CausalLMCollator(pad_token_id=0), batch_size=BATCH, seed=7)
    state = TrainState.create(
        model,
        build_optimizer(model, learning_rate=2e-3, weight_decay=0.1),
        precision=Precision(torch.device("cpu"), None),
    )
    ours = [
        float(result.loss)
        for result in train(
            state,
            data,
            max_steps=STEPS,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=1.0,
            learning_rate=lambda step: lr_at(
                step, max_steps=STEPS, learning_rate=2e-3, warmup_steps=3
            ),
        )
    ]

    # The samples as our epochs come to them, for a Trainer that goes straight through.
    in_our_order = [
        samples[int(i)]
        for epoch in range(accumulation)
        for index in range(len(data))
        for i in data.sample_numbers(epoch, index)
    ]
    reference = make()
    # Left alone, the Trainer of transformers 5.23 counts the first token of every row as a target
    # of GPT-2, though not of Llama: it looks for a loss type in the class name, and
    # GPT2LMHeadModel has none. Its mean is then too small, by a twentieth here.
    reference.loss_type = "ForCausalLM"
    theirs = trainer_losses(reference, in_our_order, accumulation, tmp_path)
    assert len(ours) == len(theirs) == STEPS
    assert theirs[-1] < theirs[0] - 0.1  # it did learn
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=1e-5)
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
