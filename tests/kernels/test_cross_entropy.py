"""Head and loss in one, against both apart: pytest tests/kernels/test_cross_entropy.py"""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2ft import causal_lm_loss
from gpt2ft.kernels import cross_entropy
from gpt2ft.kernels.cross_entropy import CPU, CUDA, linear_cross_entropy


@pytest.fixture
def tensors():
    """hidden (N, D), weight (V, D), targets (N,), N over several pieces."""
    torch.manual_seed(0)
    n = 2 * CPU.rows + 77
    hidden = torch.randn(n, 24, requires_grad=True)
    weight = torch.randn(301, 24, requires_grad=True)
    return hidden, weight, torch.randint(0, 301, (n,))


def gradients_of(loss, *tensors):
    return torch.autograd.grad(loss * 0.37, [t for t in tensors if t.requires_grad])


def test_the_loss_is_that_of_the_whole_logits(tensors):
    hidden, weight, targets = tensors
    ours = linear_cross_entropy(hidden, weight, targets)
    double = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    expected = F.cross_entropy(double[0] @ double[1].T, targets, reduction="sum")
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0)
    pairs = zip(gradients_of(ours, hidden, weight), gradients_of(expected, *double), strict=True)
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)


def test_under_autocast_it_is_as_near_to_the_truth_as_the_whole_logits(tensors):
    """In bf16 both are off by its rounding; ours not by more than half as much again."""
    hidden, weight, targets = tensors
    truth = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    wanted = gradients_of(truth, hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_cross_entropy(hidden, weight, targets)
        usual = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    assert ours.dtype is torch.float32
    torch.testing.assert_close(ours, usual, rtol=1e-4, atol=0)
    for gradient, other, exact in zip(
        gradients_of(ours, hidden, weight),
        gradients_of(usual, hidden, weight),
        wanted,
        strict=True,
    ):
        assert gradient.dtype is torch.float32
        error, usual_error = ((g - exact).norm() / exact.norm() for g in (gradient, other))
        assert error < 1.5 * usual_error < 0.02


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_gets_no_gradient(frozen, tensors):
    hidden, weight, targets = tensors
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    loss = linear_cross_entropy(hidden, weight, targets)
    assert loss.requires_grad == (frozen != "both")
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    if frozen != "both":
        (ours,), (theirs,) = (gradients_of(x, hidden, weight) for x in (loss, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_targets_at_all(tensors):
    hidden, weight, targets = tensors
    loss = linear_cross_entropy(hidden[:0], weight, targets[:0])
    assert float(loss.detach()) == 0
    for gradient in gradients_of(loss, hidden, weight):
        assert not gradient.any()


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return out


def test_the_logits_never_exist_whole(tensors):
    hidden, weight, targets = tensors
    with Largest() as ours:
        linear_cross_entropy(hidden, weight, targets).backward()
    with Largest() as usual:
        F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum").backward()
    assert ours.size == CPU.rows * 301
    assert usual.size == len(hidden) * 301


def test_evaluation_computes_no_gradient(tensors, monkeypatch):
    """Neither the products nor the tensors, of hidden states and weight."""
    made, forward = [], cross_entropy._forward

    def watched(ctx, *inputs):
        loss = forward(ctx, *inputs)
        made.append(ctx.gradients)
        return loss

    monkeypatch.setattr(cross_entropy, "_forward", watched)
    expected = linear_cross_entropy(*tensors)
    monkeypatch.setattr(cross_entropy, "_product", None)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(*tensors), expected)
    assert None not in made[0] and made[1] == (None, None)


def test_on_cuda_it_computes_the_same(tensors, monkeypatch):
    """In the sizes of CUDA, and with targets that are ignored there, not left out."""
    hidden, weight, targets = tensors
    targets[::3] = -100
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    monkeypatch.setattr(cross_entropy, "CPU", CUDA)
    ours = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    pairs = [gradients_of(x, hidden, weight) for x in (ours, expected)]
    for gradient, wanted in zip(*pairs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_small_gradients_are_not_lost_in_fp16(tensors):
    """Of a token that is so improbable that fp16 has hardly a number for it."""
    _, weight, _ = tensors
    torch.manual_seed(0)
    hidden, targets = 1 + torch.randn(64, 24) / 10, torch.randint(9, 301, (64,))
    weight = (weight.detach() / 24).index_fill_(0, torch.tensor(5), -0.45).requires_grad_()
    loss = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (wanted,) = torch.autograd.grad(loss, weight)
    with torch.autocast("cpu", dtype=torch.float16):
        (ours,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), weight)
        usual = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    (theirs,) = torch.autograd.grad(usual, weight)
    error, their_error = ((g - wanted)[5].norm() / wanted[5].norm() for g in (ours, theirs))
    assert error < 0.02 < their_error
    assert (ours - wanted).norm() < 5e-3 * wanted.norm()


def test_its_backward_pass_can_be_called_once(tensors):
    hidden, weight, targets = tensors
    loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_a_second_derivative_is_refused(tensors, model):
    """Through a model it would be wrong without a word: that of the head would be missing."""
    hidden, weight, targets = tensors
    loss = linear_cross_entropy(hidden, weight, targets)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, weight, create_graph=True)
    rows = torch.tensor([[3, 200, 7, 7, 41, 9]])
    loss = causal_lm_loss(model, {"input_ids": rows, "labels": rows})
    with pytest.raises(RuntimeError, match="compute the loss from the model's logits"):
        # The gradient penalty of Drucker and LeCun, 1992.
        torch.autograd.grad(loss, [*model.parameters()], create_graph=True)
