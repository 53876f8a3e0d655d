"""pytest tests/test_loop.py"""

import inspect
import math
import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from gpt2ft import (
    Batches,
    CausalLMCollator,
    TrainState,
    build_optimizer,
    causal_lm_loss,
    evaluate,
    train,
)
from gpt2ft.guards import undisturbed
from gpt2ft.loop import NonFiniteError, NoTargetsError, train_step
from gpt2ft.loss import count_targets
from gpt2ft.precision import Precision, resolve_precision

FP32 = Precision(torch.device("cpu"), None)
collate = CausalLMCollator(pad_token_id=0)


class Samples:
    """Eight samples of 3 to 10 tokens."""

    lengths = torch.arange(3, 11).numpy()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"input_ids": [(index * 37 + i * 11) % 256 + 1 for i in range(self.lengths[index])]}


def make_state(model, **settings):
    return TrainState.create(model, build_optimizer(model, **settings), precision=FP32)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient_of(model, micro_batches, **settings):
    """What the optimizer gets to see."""
    seen = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen["gradient"] = torch.cat([p.grad.flatten() for p in model.parameters()])

    state = TrainState.create(model, Spy(model.parameters(), lr=1.0), precision=FP32)
    result = train_step(state, micro_batches, **settings)
    return seen["gradient"], result


def test_the_step_is_read_at_a_glance():
    """At most 45 lines of code, signature included, and no name that is private."""
    before, _, after = inspect.getsource(train_step).split('"""')
    code = [line.partition("#")[0].strip() for line in (before + after).splitlines()]
    code = [line for line in code if line]
    assert len(code) <= 45
    assert not re.search(r"\b_\w", "\n".join(code))


@pytest.mark.parametrize("split", [[1] * 8, [3, 3, 2], [4, 4], [7, 1]])
def test_how_a_batch_is_divided_does_not_matter(split, make_model):
    """Ragged: a mean of means would weigh the short rows too much."""
    samples = Samples()
    whole, one = gradient_of(make_model(), [collate([samples[i] for i in range(8)])])
    starts = [sum(split[:i]) for i in range(len(split))]
    parts = [
        collate([samples[i] for i in range(start, start + n)])
        for start, n in zip(starts, split, strict=True)
    ]
    divided, many = gradient_of(make_model(), parts)
    torch.testing.assert_close(divided, whole, rtol=0, atol=1e-6)
    assert float(one.loss) == pytest.approx(float(many.loss), abs=1e-6)
    assert one.n_targets == many.n_targets == sum(range(2, 10))


def test_loss_and_norm_are_those_of_hugging_face(model):
    batch = collate([Samples()[i] for i in range(8)])
    gradient, result = gradient_of(model, [batch])
    model.zero_grad()
    loss = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
    assert float(result.loss) == pytest.approx(float(loss.detach()), abs=1e-6)
    assert float(result.grad_norm) == pytest.approx(float(norm), abs=1e-5)
    torch.testing.assert_close(
        gradient, torch.cat([p.grad.flatten() for p in model.parameters()]), rtol=0, atol=1e-6
    )


def test_clipping_is_that_of_torch(make_model):
    batch = collate([Samples()[0]])
    clipped, result = gradient_of(make_model(), [batch], max_grad_norm=0.1)
    model = make_model()
    full, _ = gradient_of(model, [batch])
    parameters = list(model.parameters())
    for p, part in zip(parameters, full.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).clone()
    torch.nn.utils.clip_grad_norm_(parameters, 0.1)
    expected = torch.cat([p.grad.flatten() for p in parameters])
    torch.testing.assert_close(clipped, expected, rtol=1e-5, atol=1e-8)
    assert float(result.grad_norm) == pytest.approx(float(full.norm()), rel=1e-5)


def test_a_loss_that_counts_otherwise(make_model):
    """Weighted targets: the same as a weighted mean by hand, however the batch is divided."""

    def weighted(model, batch):
        logits = model(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
        targets, weights = batch["labels"][:, 1:].flatten(), batch["weights"][:, 1:].flatten()
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return (losses * weights).sum()

    def count(batch):
        return float(batch["weights"][:, 1:][batch["labels"][:, 1:] != -100].sum())

    batch = collate([Samples()[i] for i in (2, 3, 4)])
    batch["weights"] = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(0))
    rows = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(3)]
    settings = {"loss_fn": weighted, "count_fn": count}
    whole, a = gradient_of(make_model(), [batch], **settings)
    divided, b = gradient_of(make_model(), rows, **settings)
    torch.testing.assert_close(divided, whole, rtol=0, atol=1e-6)
    model = make_model()
    (weighted(model, batch) / count(batch)).backward()
    by_hand = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(whole, by_hand, rtol=0, atol=1e-6)
    assert a.n_targets == pytest.approx(b.n_targets) == pytest.approx(count(batch))
    assert float(a.loss) == pytest.approx(float(b.loss), abs=1e-6)


def test_all_labels_masked_names_the_samples(model):
    class Masked(Samples):
        def __getitem__(self, index):
            ids = super().__getitem__(index)["input_ids"]
            return {"input_ids": ids, "labels": [-100] * len(ids)}

    data = Batches(Masked(), collate, batch_size=2, seed=5)
    before = weights(model)
    expected = [int(i) for i in data.sample_numbers(0, 0)]
    with pytest.raises(NoTargetsError, match=rf"every label .* samples \[{expected[0]}, "):
        next(train(make_state(model), data, max_steps=1))
    assert torch.equal(weights(model), before)
    with pytest.raises(NoTargetsError):
        evaluate(model, data, precision=FP32)


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_a_gradient_that_is_not_finite_is_never_applied(kind, model):
    state = make_state(model)
    if kind == "plain":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        state = TrainState.create(model, optimizer, precision=FP32)
    batch = collate([Samples()[0]])
    train_step(state, [batch])
    before = weights(model)

    def poisoned(model, batch):
        return model(batch["input_ids"]).logits.sum() * math.nan

    result = train_step(state, [batch], loss_fn=poisoned)
    assert bool(result.skipped)
    assert torch.equal(weights(model), before)
    result = train_step(state, [batch])
    assert not bool(result.skipped)
    assert not torch.equal(weights(model), before)
    assert torch.isfinite(weights(model)).all()


def test_every_attempt_counts(model):
    """A scaler on the CPU, its scale far too great at first: it overflows until it has halved."""
    state = make_state(model)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    data = Batches(Samples(), collate, batch_size=2, seed=5)
    rates, skips, before = [], [], weights(model)
    for result in train(state, data, max_steps=6, learning_rate=lambda step: 0.1 / (step + 1)):
        rates.append(result.learning_rate)
        skips.append(bool(result.skipped))
        assert torch.equal(weights(model), before) == all(skips)
    n_skipped = sum(skips)
    assert 1 <= n_skipped < 6 and skips == [True] * n_skipped + [False] * (6 - n_skipped)
    assert rates == [0.1 / n for n in range(1, 7)]
    assert (state.step, int(state.skipped_steps), state.batches) == (6, n_skipped, 6)
    assert torch.isfinite(weights(model)).all()
    assert state.scaler.get_scale() == 2.0 ** (127 - n_skipped)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("fused", [True, False])
def test_ten_skipped_updates_in_a_row_end_the_training(scaled, fused, model):
    """Also in fp16 a model whose loss is always NaN does not go on for ever."""
    data = Batches(Samples(), collate, batch_size=2, seed=5)
    groups = [{"params": list(model.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=fused)
    state = TrainState.create(model, optimizer, precision=FP32)
    if scaled:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    seen = []

    def loss_fn(model, batch):
        loss = causal_lm_loss(model, batch)
        return loss * math.nan if len(seen) in (3, *range(6, 100)) else loss

    with pytest.raises(NonFiniteError) as raised:
        for result in train(state, data, max_steps=100, loss_fn=loss_fn):
            seen.append(bool(result.skipped))
    assert seen == [False] * 3 + [True] + [False] * 2 + [True] * 10
    samples = [int(i) for i in data.sample_numbers(*divmod(15, len(data)))]
    assert f"step 16: samples {samples}" in str(raised.value)
    assert raised.value.result.step == state.step == 16 and int(state.skipped_steps) == 11
    assert torch.isfinite(weights(model)).all()


def test_scaled_and_unscaled_steps_agree(make_model):
    plain, scaled = make_state(make_model()), make_state(make_model())
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    batch = collate([Samples()[5]])
    for state in (plain, scaled):
        train_step(state, [batch], max_grad_norm=0.5)
    torch.testing.assert_close(weights(scaled.model), weights(plain.model), rtol=0, atol=1e-7)


def test_steps_never_reach_over_the_end_of_an_epoch(model):
    """Four micro-batches an epoch, three a step: 3 + 1, and again."""
    data = Batches(Samples(), collate, batch_size=2, seed=5)
    state = make_state(model)
    places = []
    for result in train(state, data, max_steps=5, gradient_accumulation_steps=3):
        places.append((result.step, result.batches))
    borders = [0, 3, 4, 7, 8, 11]
    assert places == [(n, range(*pair)) for n, pair in enumerate(pairwise(borders), 1)]


def test_every_epoch_trains_on_every_sample_once(model):
    asked = []

    class Spy(Batches):
        def __getitem__(self, position):
            asked.extend((position[0], int(i)) for i in self.sample_numbers(*position))
            return super().__getitem__(position)

    data = Spy(Samples(), collate, batch_size=3, seed=5)
    for _ in train(make_state(model), data, max_steps=6):
        pass
    for epoch in (0, 1):
        assert sorted(i for e, i in asked if e == epoch) == list(range(8))
    orders = [[i for e, i in asked if e == epoch] for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_the_loop_is_the_callers_to_stop_and_change(model):
    data = Batches(Samples(), collate, batch_size=2, seed=5)
    state = make_state(model, learning_rate=1e-3)
    rates = []
    for result in train(state, data, max_steps=100):
        rates.append(result.learning_rate)
        state.optimizer.param_groups[0]["lr"] = 5e-4
        if result.step == 3:
            break
    assert (state.step, rates) == (3, [1e-3, 5e-4, 5e-4])
    # And it goes on from where it was left.
    assert [r.step for r in train(state, data, max_steps=5)] == [4, 5]


def test_observing_never_changes_training(make_model):
    """Dropout is on: a single random number drawn in between would show."""
    data = Batches(Samples(), collate, batch_size=2, seed=5)
    held_out = Batches(Samples(), collate, batch_size=4)

    def run(observe):
        torch.manual_seed(1)
        state = make_state(make_model(dropout=0.2), learning_rate=1e-2)
        for _ in train(state, data, max_steps=6):
            if observe:
                evaluate(state.model, held_out, precision=FP32)
                with undisturbed(state.model):
                    assert not state.model.training
                    torch.rand(3)
                assert state.model.training
        return weights(state.model)

    assert torch.equal(run(observe=True), run(observe=False))


def test_evaluation_is_weighted_by_tokens(model):
    """The same whatever the batch size; equal to Hugging Face's mean over one padded batch."""
    losses = [
        evaluate(model, Batches(Samples(), collate, batch_size=size), precision=FP32)
        for size in (1, 3, 8)
    ]
    batch = collate([Samples()[i] for i in range(8)])
    with torch.no_grad():
        expected = float(model.eval()(input_ids=batch["input_ids"], labels=batch["labels"]).loss)
    for evaluation in losses:
        assert evaluation.loss == pytest.approx(expected, rel=5e-7)  # four times fp32's rounding
        assert evaluation.perplexity == pytest.approx(math.exp(expected), rel=1e-5)
        assert evaluation.n_targets == sum(range(2, 10))


def test_bf16_autocast_keeps_weights_and_moments_in_fp32(model):
    state = TrainState.create(
        model, build_optimizer(model), precision=resolve_precision("bf16", torch.device("cpu"))
    )
    result = train_step(state, [collate([Samples()[7]])])
    assert result.loss.dtype is torch.float32
    tensors = [t for entry in state.optimizer.state.values() for t in entry.values()]
    assert {t.dtype for t in [*model.parameters(), *tensors]} == {torch.float32}
    assert not state.scaler.is_enabled()


def test_dropout_is_a_function_of_seed_step_and_micro_batch(make_model):
    """What a loss draws: other numbers everywhere, and the same when a step is made again."""

    def drawn(seed, max_steps=3):
        numbers = []

        def loss_fn(model, batch):
            numbers.append(tuple(torch.rand(3).tolist()))
            return causal_lm_loss(model, batch)

        optimizer = build_optimizer(make_model())
        state = TrainState.create(model, optimizer, precision=FP32, seed=seed)
        data = Batches(Samples(), collate, batch_size=2, seed=5)
        settings = {"gradient_accumulation_steps": 2, "loss_fn": loss_fn}
        list(train(state, data, max_steps=max_steps, **settings))
        return numbers

    model = make_model()
    torch.manual_seed(1)
    first = drawn(seed=0)
    torch.manual_seed(2)
    assert drawn(seed=0) == first and drawn(seed=0, max_steps=2) == first[:4]
    other = drawn(seed=1)
    assert len({*first, *other}) == len(first) + len(other) == 12


def test_the_next_batches_are_made_before_the_body_runs_and_once(model):
    asked, bodies = [], []

    class Spy(Batches):
        def __getitem__(self, position):
            asked.append(position)
            return super().__getitem__(position)

    data = Spy(Samples(), collate, batch_size=2, seed=5)
    for _ in train(make_state(model), data, max_steps=4, gradient_accumulation_steps=3):
        bodies.append(len(asked))
    assert bodies == [4, 7, 8, 8]  # of 3, 1, 3 and 1 micro-batches
    assert asked == [(epoch, index) for epoch in (0, 1) for index in range(4)]


def test_data_that_cannot_be_read_is_an_error_when_its_step_comes(model):
    class Torn(Batches):
        def __getitem__(self, position):
            if position == (0, 2):
                raise OSError("the disk is gone")
            return super().__getitem__(position)

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for result in train(make_state(model), Torn(Samples(), collate, batch_size=2), max_steps=4):
            seen.append(result.step)
    assert seen == [1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_of_another_dtype(dtype, make_model):
    """As far as torch's fused AdamW takes them."""
    model = make_model().to(dtype)
    before = weights(model)
    result = train_step(make_state(model, learning_rate=1e-2), [collate([Samples()[0]])])
    assert not bool(result.skipped) and not torch.equal(weights(model), before)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"gradient_accumulation_steps": 0}, ValueError, "gradient_accumulation_steps is 0, give"),
        ({"gradient_accumulation_steps": -3}, ValueError, "gradient_accumulation_steps is -3"),
        ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm is 0.0, give a number > 0, or inf"),
        ({"max_grad_norm": math.nan}, ValueError, "max_grad_norm is nan, give"),
        ({"max_grad_norm": -1.0}, ValueError, "max_grad_norm is -1.0, give"),
        (
            {"learning_rate": 1e-4},
            TypeError,
            "learning_rate is 0.0001, give a function of the step",
        ),
        ({"count_fn": lambda _: -5}, ValueError, "count_fn gave -5, it must give a finite number"),
        ({"count_fn": lambda _: math.nan}, ValueError, "count_fn gave nan, it must give"),
        ({"count_fn": lambda _: math.inf}, ValueError, "count_fn gave inf, it must give"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error, message, model):
    state, before = make_state(model), weights(model)
    data = Batches(Samples(), collate, batch_size=2)
    with pytest.raises(error, match=message):
        list(train(state, data, max_steps=3, **settings))
    assert state.step == 0 and torch.equal(weights(model), before)


def test_a_step_takes_a_list_of_batches(model):
    batch = collate([Samples()[0]])
    with pytest.raises(TypeError, match=r"this is one batch, give a list of batches: \[batch\]"):
        train_step(make_state(model), batch)
    with pytest.raises(ValueError, match="there are no batches"):
        train_step(make_state(model), [])


@pytest.mark.parametrize("kind", [torch.tensor, np.int64, np.float32])
def test_numbers_of_torch_and_numpy_become_numbers_of_python(kind, make_model):
    """As a checkpoint can hold them; and a seed of either draws the same."""

    def run(kind):
        state = TrainState.create(make_model(dropout=0.2), None, precision=FP32, seed=kind(3))
        state.optimizer = build_optimizer(state.model)
        data = Batches(Samples(), collate, batch_size=2)
        settings = {
            "learning_rate": lambda step: kind(1),
            "count_fn": lambda batch: kind(count_targets(batch)),
        }
        result = list(train(state, data, max_steps=2, **settings))[-1]
        kept = [state.seed, state.tokens, result.n_targets, result.learning_rate]
        assert {type(number) for number in kept} <= {int, float}
        return weights(state.model)

    assert torch.equal(run(kind), run(int))


def test_a_step_is_made_in_training_mode(make_model):
    """Whatever the body of the loop left the model in."""

    def run(leave):
        state = make_state(make_model(dropout=0.2), learning_rate=1e-2)
        for _ in train(state, Batches(Samples(), collate, batch_size=2), max_steps=3):
            leave(state.model)
        return weights(state.model)

    assert torch.equal(run(torch.nn.Module.eval), run(lambda model: None))


def test_the_error_reaches_another_process(model):
    def infinite(model, batch):
        return causal_lm_loss(model, batch) * math.inf

    data = Batches(Samples(), collate, batch_size=2)
    with pytest.raises(NonFiniteError) as raised:
        list(train(make_state(model), data, max_steps=20, loss_fn=infinite))
    copied = pickle.loads(pickle.dumps(raised.value))
    assert str(copied) == str(raised.value) and copied.result.step == 10
