"""pytest tests/test_optim.py"""

import pytest
import torch
import transformers

from gpt2ft import build_optimizer, lr_at
from gpt2ft.optim import clip_and_step, parameter_groups, state_bytes

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


def gradients(model, seed):
    torch.manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn_like(p)


def no_scaler():
    return torch.amp.GradScaler("cpu", enabled=False)


def test_a_step_is_that_of_sgd_by_hand(model):
    optimizer = build_optimizer(model, name="sgd", learning_rate=0.5, weight_decay=0.25)
    gradients(model, 0)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    expected = [
        p.detach() - 0.5 * (p.grad / (norm + 1e-6) + (0.25 * p.detach() if p.dim() > 1 else 0))
        for p in model.parameters()
    ]
    clip_and_step(optimizer, no_scaler(), max_grad_norm=1.0)
    for p, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-6, atol=1e-7)


def test_a_step_is_that_of_adafactor_by_the_paper(model):
    """Of one matrix, after torch's documentation, with its relative step and its own clipping."""
    optimizer = build_optimizer(model, name="adafactor", learning_rate=1e-3)
    weight = model.transformer.wte.weight
    row, column, expected = 0.0, 0.0, weight.detach().double()
    for step in (1, 2, 3):
        gradients(model, step)
        gradient = weight.grad.double()
        new = step**-0.8
        row = (1 - new) * row + new * gradient.square().mean(1, keepdim=True)
        column = (1 - new) * column + new * gradient.square().mean(0, keepdim=True)
        update = gradient / (row @ column / row.mean()).sqrt()
        size = expected.square().mean().sqrt()
        update /= max(1.0, update.square().mean().sqrt())
        expected = expected - max(1e-3, size) * min(1e-3, step**-0.5) * update
        clip_and_step(optimizer, no_scaler(), max_grad_norm=float("inf"))
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["adafactor", "sgd"])
def test_any_optimizer_skips_what_is_not_finite(name, model):
    optimizer = build_optimizer(model, name=name, learning_rate=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    gradients(model, 0)
    model.transformer.wpe.weight.grad[0] = torch.nan
    assert clip_and_step(optimizer, no_scaler(), max_grad_norm=1.0)[1]
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd"])
def test_what_an_optimizer_keeps_is_known_before_it_does(name, model):
    optimizer = build_optimizer(model, name=name, learning_rate=0.1)
    before = state_bytes(optimizer)
    gradients(model, 0)
    optimizer.step()
    assert state_bytes(optimizer) == before
    n = sum(p.numel() for p in model.parameters())
    least, most = {"adamw": (8, 8.01), "adafactor": (0.1, 1), "sgd": (0, 0)}[name]
    assert least <= before / n <= most


def test_no_such_optimizer(model):
    with pytest.raises(ValueError, match="no optimizer adam, use adamw, adafactor or sgd"):
        build_optimizer(model, name="adam")


def test_memory_that_runs_out_within_an_update_is_another_error(model, monkeypatch):
    """The step cannot be begun again: some weights are updated."""
    optimizer = build_optimizer(model, name="adafactor", learning_rate=0.1)
    gradients(model, 0)

    def step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(optimizer, "step", step)
    with pytest.raises(MemoryError, match="may be half done"):
        clip_and_step(optimizer, no_scaler(), max_grad_norm=1.0)
