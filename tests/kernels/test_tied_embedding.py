"""The gradient of an embedding tied to the head: pytest tests/kernels/test_tied_embedding.py"""

import copy
import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2ft import accelerate, causal_lm_loss
from gpt2ft.kernels.tied_embedding import TiedEmbedding, can_share, shared_weight
from gpt2ft.models.probe import plain_head

ROWS = torch.tensor([[3, 200, 7, 7, 41, 9], [8, 9, 7, 11, 0, 0]])
BATCH = {"input_ids": ROWS, "labels": ROWS}
PACKED = {**BATCH, "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)}


@pytest.fixture
def two(make_model):
    """The same model twice; the second is accelerated."""
    plain, fast = make_model().train(), make_model().train()
    plain_head(plain), plain_head(fast)  # tried once
    accelerate(fast)
    assert type(fast.transformer.wte) is TiedEmbedding
    return plain, fast


class Made(TorchDispatchMode):
    """How many tensors of a shape are made, and whether one is sparse."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.n, self.sparse = shape, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.shape == self.shape:
                known = [x.data_ptr() for x in args if torch.is_tensor(x) and not x.is_sparse]
                self.sparse |= tensor.is_sparse
                self.n += tensor.is_sparse or tensor.data_ptr() not in known
        return out


def test_both_add_to_one_gradient(two):
    """Over several micro-batches; torch makes one for the embedding, too, and one for the sum."""
    n = []
    for model in two:
        with Made(model.lm_head.weight.shape) as made:
            causal_lm_loss(model, BATCH).backward()
        n.append(made.n)
        causal_lm_loss(model, PACKED).backward()
        assert not made.sparse
    assert n[1] == n[0] - 2
    for ours, theirs in zip(two[1].parameters(), two[0].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


LOSSES = {
    "ours": lambda m: causal_lm_loss(m, BATCH),
    "of the logits": lambda m: m(input_ids=ROWS, labels=ROWS).loss,
    "of the hidden states": lambda m: m.transformer(ROWS).last_hidden_state.sin().sum(),
    "of the embedding": lambda m: m.get_input_embeddings()(ROWS).square().sum(),
    "of a part": lambda m: causal_lm_loss(m, {**BATCH, "labels": ROWS.where(ROWS == 41, -100)}),
    "of nothing": lambda m: causal_lm_loss(m, {**BATCH, "labels": ROWS * 0 - 100}),
}


@pytest.mark.parametrize("loss_fn", LOSSES.values(), ids=LOSSES)
def test_whoever_looks_sees_a_dense_gradient(loss_fn, two):
    """torch.autograd.grad, hooks before and after, and what is stored."""
    seen = []
    for model in two:
        weight, mine = model.lm_head.weight, []
        hooks = [
            weight.register_hook(lambda grad, mine=mine: mine.append(grad.clone())),
            weight.register_post_accumulate_grad_hook(
                lambda p, mine=mine: mine.append(p.grad.clone())
            ),
        ]
        mine += torch.autograd.grad(loss_fn(model), [weight])
        loss_fn(model).backward()
        mine.append(weight.grad)
        for hook in hooks:
            hook.remove()
        seen.append(mine)
    assert len(seen[0]) == len(seen[1]) >= 4
    for theirs, ours in zip(*seen, strict=True):
        assert ours.layout is torch.strided
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_another_optimizer(two):
    """LBFGS flattens all gradients."""
    losses = []
    for model in two:
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = causal_lm_loss(model, BATCH) / 10
            loss.backward()
            return loss

        losses.append([optimizer.step(closure).item() for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_checkpoints_and_copies(two):
    """What is computed again, or on a copy, has the same gradients."""
    plain, fast = two
    fast.activation_checkpointing_enable()
    fast = copy.deepcopy(fast)
    assert fast.lm_head.weight is fast.get_input_embeddings().weight
    for model in (plain, fast):
        causal_lm_loss(model, BATCH).backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_hooks_of_the_embedding_stay(two):
    seen = []
    _, fast = two
    fast.transformer.wte.register_forward_hook(lambda m, inputs, out: seen.append(out) or out * 2)
    doubled = causal_lm_loss(fast, BATCH)
    assert len(seen) == 1 and doubled != causal_lm_loss(two[0], BATCH)


def test_padding_is_not_learned():
    """The row `padding_idx` gets no gradient from the embedding."""
    torch.manual_seed(0)
    gradients = []
    for kind in (torch.nn.Embedding, TiedEmbedding):
        embedding = torch.nn.Embedding(11, 4, padding_idx=0)
        embedding.weight.data.fill_(0.5)
        embedding.__class__ = kind
        with shared_weight(embedding, embedding.weight) as shared:
            rows = embedding(torch.tensor([[0, 3, 3], [1, 0, 2]]))
            assert (shared.weight is embedding.weight) == (kind is torch.nn.Embedding)
        (rows.sin().sum() + shared.weight[:2].square().sum()).backward()
        gradients.append(embedding.weight.grad)
    torch.testing.assert_close(*gradients)


def test_an_error_in_between_leaves_nothing(two):
    _, fast = two
    wte = fast.transformer.wte
    with pytest.raises(KeyboardInterrupt), shared_weight(wte, wte.weight):
        raise KeyboardInterrupt
    assert wte.shared is None
    causal_lm_loss(fast, BATCH).backward()
    assert wte.shared is None


def test_an_embedding_of_its_own_stays(make_llama):
    """And one that looks up in another way."""
    model = make_llama()
    accelerate(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert type(embedding) is torch.nn.Embedding and not can_share(embedding, head)
    for settings in ({"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}, {}):
        embedding = torch.nn.Embedding(11, 4, **settings)
        head.weight = embedding.weight
        assert can_share(embedding, head) == (not settings)
    assert not can_share(embedding, None)


def test_distributed_data_parallel(two, monkeypatch):
    """It reads the flag `sparse`, and then expects the gradient to be."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(two[1])
        parallel(input_ids=ROWS, labels=ROWS).loss.backward()
        two[0](input_ids=ROWS, labels=ROWS).loss.backward()
        # Before the group: destroyed after it, it may wait for ever for a thread of the group.
        del parallel
        gc.collect()
    finally:
        torch.distributed.destroy_process_group()
    ours, theirs = (model.lm_head.weight.grad for model in two[::-1])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
