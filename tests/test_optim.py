"""pytest tests/test_optim.py"""

import pytest
import torch
import transformers

from gpt2ft import build_optimizer, lr_at
from gpt2ft.optim import parameter_groups

TABLE = {
    # step: (linear, cosine, constant) with 10 steps, 2 of warm-up, peak 1
    0: (0.0, 0.0, 0.0),
    1: (0.5, 0.5, 0.5),
    2: (1.0, 1.0, 1.0),
    4: (0.75, 0.8535533905932737, 1.0),
    6: (0.5, 0.5, 1.0),
    8: (0.25, 0.1464466094067262, 1.0),
    10: (0.0, 0.0, 1.0),
    12: (0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("step", TABLE)
def test_learning_rate_table(step):
    for schedule, expected in zip(("linear", "cosine", "constant"), TABLE[step], strict=True):
        rate = lr_at(step, max_steps=10, learning_rate=1.0, warmup_steps=2, schedule=schedule)
        assert rate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("warmup_steps", [0, 3, 20])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant_with_warmup"])
def test_same_as_the_schedulers_of_transformers(schedule, warmup_steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    scheduler = transformers.get_scheduler(schedule, optimizer, warmup_steps, 20)
    name = schedule.split("_")[0]
    for step in range(20):
        settings = {"max_steps": 20, "learning_rate": 3e-4, "warmup_steps": warmup_steps}
        ours = lr_at(step, schedule=name, **settings)
        assert ours == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12, abs=1e-18), step
        optimizer.step()
        scheduler.step()


def test_unknown_schedule():
    with pytest.raises(ValueError, match="no schedule zigzag"):
        lr_at(5, max_steps=10, learning_rate=1.0, schedule="zigzag")


def test_matrices_decay_and_vectors_do_not(model):
    decayed, plain = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert "transformer.wte.weight" in decayed["param_names"]
    assert "transformer.h.0.ln_1.weight" in plain["param_names"]
    assert "transformer.h.0.mlp.c_fc.bias" in plain["param_names"]


def test_every_trainable_parameter_is_placed_once(model):
    model.transformer.wpe.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted({id(p) for p in model.parameters() if p.requires_grad})
    assert model.lm_head.weight is model.transformer.wte.weight  # tied, and placed once


def test_nothing_to_train(model):
    with pytest.raises(ValueError, match="no parameter"):
        parameter_groups(model.requires_grad_(False), 0.0)


def test_a_step_is_that_of_plain_adamw(make_model):
    """Ours is fused; the reference is the for-loop implementation with the same groups."""
    ours, theirs = make_model(), make_model()
    settings = {"betas": (0.8, 0.95)}
    a = build_optimizer(ours, learning_rate=1e-2, weight_decay=0.3, epsilon=1e-6, **settings)
    b = torch.optim.AdamW(
        parameter_groups(theirs, 0.3), lr=1e-2, eps=1e-6, foreach=False, **settings
    )
    for seed in range(3):
        for model, optimizer in ((ours, a), (theirs, b)):
            torch.manual_seed(seed)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.step()
    for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)
