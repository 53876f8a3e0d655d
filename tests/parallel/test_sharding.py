"""A model that is divided among processes: pytest tests/parallel/test_sharding.py"""

import pytest
import torch

import gpt2ft
from gpt2ft.kernels.tied_embedding import TiedEmbedding
from gpt2ft.micro_batches import own_part
from gpt2ft.models.probe import plain_head
from gpt2ft.parallel import processes, sharding
from tests.support.gradients import FAMILIES, Rows, new_model, torchs_gradient
from tests.support.processes import together

FP32 = gpt2ft.resolve_precision("fp32", torch.device("cpu"))


def sharded_state(family, optimizer=torch.optim.SGD, learning_rate=0.0):
    """Other weights on each process at first: those of process 0 count."""
    model = new_model(family)
    processes.join()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(processes.rank())
    gpt2ft.shard(model)
    gpt2ft.accelerate(model)
    optimizer = optimizer(model.parameters(), lr=learning_rate)
    return gpt2ft.TrainState.create(model, optimizer, precision=FP32)


def gradients(family, n_micro_batches):
    state = sharded_state(family)
    model, data = state.model, Rows(n_micro_batches)
    parts = [len(p.to_local()) for p in model.parameters()]
    gpt2ft.train_step(state, [data[0, i] for i in own_part(range(n_micro_batches))])
    found = [sharding.whole(p.grad).flatten().tolist() for p in model.parameters()]
    evaluation = gpt2ft.evaluate(model, Rows(1), precision=FP32)
    pieces = plain_head(model) is not None
    tied = isinstance(model.get_input_embeddings(), TiedEmbedding)
    return [found, parts, [evaluation.loss, evaluation.n_targets], pieces, tied]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_micro_batches", [1, 3])
def test_the_gradient_is_that_of_torch_on_all_targets(family, n_micro_batches):
    """Of padded and packed micro-batches; with 1, the second process has none."""
    expected = torchs_gradient(family, n_micro_batches)
    one = gpt2ft.evaluate(new_model(family), Rows(1), precision=FP32)
    n_rows = [len(p) for p in new_model(family).parameters()]
    found = together(2, gradients, family, n_micro_batches)
    for gradient, _, (loss, n_targets), in_pieces, tied in found:
        gradient = torch.cat([torch.tensor(g) for g in gradient])
        assert (gradient - expected).norm() / expected.norm() < 1e-5
        assert loss == pytest.approx(one.loss, rel=1e-6) and n_targets == one.n_targets
        assert in_pieces, "the loss is computed with all logits"
        assert tied == (family == "gpt2")
    assert [sum(parts) for parts in zip(*(f[1] for f in found), strict=True)] == n_rows
    assert all(part < n for f in found for part, n in zip(f[1], n_rows, strict=True))


def clipped_and_refused(kind):
    """Norms and weights of steps that are clipped, and of one whose loss is not finite."""
    optimizer = torch.optim.SGD if kind == "plain" else fused_adamw
    state = sharded_state("gpt2", optimizer, 0.1)
    if kind == "scaler":
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    data, results, weights = Rows(4), [], []
    for step in range(3):

        def loss_fn(model, batch, step=step):
            broken = step == 1 and processes.rank() == 1  # at one process alone
            return gpt2ft.causal_lm_loss(model, batch) * (torch.inf if broken else 1.0)

        result = gpt2ft.train_step(
            state,
            [data[0, i] for i in own_part(range(4))],
            loss_fn=loss_fn,
            max_grad_norm=0.5,
        )
        results.append([result.grad_norm.item(), result.skipped.item()])
        whole = [sharding.whole(p.detach()).flatten() for p in state.model.parameters()]
        weights.append(torch.cat(whole).tolist())
    return [results, weights, state.scaler.get_scale()]


def fused_adamw(parameters, lr):
    """With a large epsilon: else it makes large updates of gradients that are only rounding."""
    return torch.optim.AdamW(parameters, lr=lr, eps=1e-2, fused=True)


@pytest.mark.parametrize("kind", ["plain", "fused", "scaler"])
def test_clipping_and_refusal_are_over_all_processes(kind):
    (alone,) = together(1, alone_clipped, kind)
    for results, weights, scale in together(2, clipped_and_refused, kind):
        assert [skipped for _, skipped in results] == [False, True, False]
        for i in (0, 2):
            assert results[i][0] == pytest.approx(alone[0][i], rel=1e-5)
        assert weights[1] == weights[0] != weights[2]
        for mine, theirs in zip(weights, alone[1], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        assert scale == (2.0**9 if kind == "scaler" else 1.0)


def alone_clipped(kind):
    """The same steps by torch alone, on one process; the second is left out."""
    model, data = new_model("gpt2"), Rows(4)
    optimizer = (torch.optim.SGD if kind == "plain" else fused_adamw)(model.parameters(), 0.1)
    norms, weights = [], []
    n_targets = sum(gpt2ft.count_targets(data[0, i]) for i in range(4))
    for step in range(3):
        optimizer.zero_grad()
        for i in range(4):
            (gpt2ft.causal_lm_loss(model, data[0, i]) / n_targets).backward()
        if step != 1:
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
            optimizer.step()
        else:
            norms.append(None)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]).tolist())
    return [norms, weights]


def test_one_process_has_nothing_to_divide():
    model = new_model("gpt2")
    gpt2ft.shard(model)
    assert not any(map(sharding.is_sharded, model.parameters()))
