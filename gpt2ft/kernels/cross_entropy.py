"""Head and loss in one: the logits, by far the largest tensor of a batch, never exist whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

FP16_SCALE = 256.0  # what gradients of logits are multiplied by in fp16, as most are near 0


class Sizes(NamedTuple):
    """How much is computed at one time."""

    rows: int
    """Rows of logits that exist at one time, in the products' dtype."""
    softmax_rows: int
    """Of these, rows in fp32."""
    entries: int
    """Entries of the vocabulary whose gradient is made at one time."""


CPU = Sizes(rows=512, softmax_rows=8, entries=4096)  # what fits its caches
CUDA = Sizes(rows=2048, softmax_rows=2048, entries=1 << 20)


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_index: int = -100,
) -> torch.Tensor:
    """Summed cross-entropy of `hidden (N, D) @ weight (V, D).T` with targets `(N,)`, in nats.

    The same as `F.cross_entropy` of `F.linear`, in autocast's dtype, but some rows at a time: the
    gradient of a row is computed right after its logits, and overwrites them. Under `no_grad` no
    gradient is computed. The backward pass raises `RuntimeError` if it is called twice, or with
    `create_graph=True`: there is no second derivative.
    """
    if not torch.is_grad_enabled():  # `needs_input_grad` does not say so
        hidden, weight = hidden.detach(), weight.detach()
    loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, ignore_index)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        ignore_index: int,
    ) -> torch.Tensor:
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return _forward(ctx, hidden.to(dtype), weight.to(dtype), targets, ignore_index)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # `once_differentiable` would raise only if `grad` requires a gradient: a penalty on the
        # gradient of a model would be wrong.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_cross_entropy: it has no second derivative (create_graph=True), "
                "compute the loss from the model's logits"
            )
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy: its backward pass can be called once")
        # Given away and not copied: that of the weight is as large as the model's largest one.
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if g is None else g.mul_(grad / ctx.scale) for g in gradients), None, None


def _forward(
    ctx: Any,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
) -> torch.Tensor:
    """The loss; `ctx.gradients` are those of hidden and weight, fp32, times `ctx.scale`."""
    sizes = CPU if hidden.device.type == "cpu" else CUDA
    scale = FP16_SCALE if hidden.dtype is torch.float16 else 1.0
    wants_hidden, wants_weight, *_ = ctx.needs_input_grad
    loss = hidden.new_zeros((), dtype=torch.float32)
    d_hidden = torch.empty_like(hidden, dtype=torch.float32) if wants_hidden else None
    d_weight = torch.empty_like(weight, dtype=torch.float32) if wants_weight else None
    if d_weight is not None and not len(hidden):
        d_weight.zero_()
    for start in range(0, len(hidden), sizes.rows):
        rows = slice(start, start + sizes.rows)
        logits = hidden[rows] @ weight.T
        for part, target in zip(
            logits.split(sizes.softmax_rows), targets[rows].split(sizes.softmax_rows), strict=True
        ):
            loss += _losses(part, target, scale, ignore_index).sum()
        if d_hidden is not None:
            d_hidden[rows] = _product(logits, weight)
        if d_weight is None:
            continue
        for entries in (slice(n, n + sizes.entries) for n in range(0, len(weight), sizes.entries)):
            part = _product(logits[:, entries].T, hidden[rows])
            d_weight[entries].add_(part) if start else d_weight[entries].copy_(part)
    ctx.gradients, ctx.scale = (d_hidden, d_weight), scale
    return loss


def _losses(
    logits: torch.Tensor, targets: torch.Tensor, scale: float, ignore_index: int
) -> torch.Tensor:
    """The loss of each row `(N,)`; its gradient times `scale` takes the place of the logits."""
    labelled = (targets != ignore_index)[:, None]
    targets = torch.where(labelled, targets[:, None], 0)
    exponents = logits.float()
    exponents -= exponents.amax(-1, keepdim=True)
    of_target = exponents.gather(-1, targets)
    probabilities = exponents.exp_()
    total = probabilities.sum(-1, keepdim=True)
    gradient = probabilities.mul_(labelled * scale / total)
    gradient.scatter_add_(-1, targets, labelled * -scale)
    logits.copy_(gradient)
    return torch.where(labelled, total.log() - of_target, 0.0).squeeze(-1)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b, in fp32 where that costs nothing: a sum over many rows would leave fp16's range."""
    if a.device.type == "cuda" and a.dtype is not torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a @ b
