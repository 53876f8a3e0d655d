"""The training state as named tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..loop import TrainState

COUNTERS = ("seed", "step", "batches", "tokens")


def _parameter_names(optimizer: torch.optim.Optimizer) -> list[str]:
    groups = optimizer.param_groups
    if not all("param_names" in group for group in groups):
        raise ValueError(
            "the optimizer's groups name no parameters, make it of model.named_parameters() or "
            "gpt2ft.parameter_groups(model, weight_decay)"
        )
    return [name for group in groups for name in group["param_names"]]


def optimizer_tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """Optimizer state by parameter NAME: by index, a changed order would load silently."""
    by_index = state.optimizer.state_dict()["state"]
    names = _parameter_names(state.optimizer)
    return {
        f"{key}/{names[index]}": value.contiguous()
        for index, entry in by_index.items()
        for key, value in entry.items()
        if value is not None
    }


def state_values(state: TrainState) -> dict[str, Any]:
    """All of the state that is no tensor, for JSON."""
    groups = state.optimizer.state_dict()["param_groups"]
    return {
        **{name: getattr(state, name) for name in COUNTERS},
        "skipped_steps": int(state.skipped_steps),
        "precision": state.precision.name,
        "scaler": state.scaler.state_dict(),
        "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in groups],
    }


def restore(
    state: TrainState,
    values: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
) -> None:
    """Bring model, optimizer, scaler and counters to what was saved.

    Raises `ValueError` if something does not fit, before anything is changed.
    """
    if values["precision"] != state.precision.name:
        raise ValueError(
            f"it was trained in {values['precision']}, this run is in {state.precision.name}, "
            f"add --precision {values['precision']}"
        )
    names = _parameter_names(state.optimizer)
    saved_names = [name for group in values["param_groups"] for name in group["param_names"]]
    if names != saved_names:
        different = sorted(set(names) ^ set(saved_names))[:5]
        raise ValueError(f"it holds the moments of other parameters: {', '.join(different)}")
    _check_same(weights, state.model.state_dict())
    parameters = dict(state.model.named_parameters())
    _check_moments(names, moments, parameters)
    groups = _groups(state.optimizer, values)
    scale, counters = values["scaler"], {name: values[name] for name in COUNTERS}
    skipped_steps = torch.tensor(values["skipped_steps"])

    state.model.load_state_dict(weights)
    moments = {n: _like_new(m, parameters[n.split("/", 1)[1]]) for n, m in moments.items()}
    state.optimizer.load_state_dict({"state": _by_index(names, moments), "param_groups": groups})
    if scale:
        state.scaler.load_state_dict(scale)
    for name, value in counters.items():
        setattr(state, name, value)
    state.skipped_steps = skipped_steps


def _check_moments(
    names: Sequence[str],
    moments: Mapping[str, torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
) -> None:
    """Raise `ValueError` unless all matrices have the same moments, and all vectors.

    Each is a number, or in the shape of its parameter; Adafactor keeps means of rows and columns.
    """
    of = {full_name: full_name.split("/", 1) for full_name in moments}
    unknown = [full_name for full_name, (_, name) in of.items() if name not in parameters]
    kinds = {(key, parameters[name].dim()) for key, name in of.values() if name in parameters}
    wanted = {f"{key}/{name}" for key, n in kinds for name in names if parameters[name].dim() == n}
    different = sorted({*unknown, *(wanted ^ moments.keys())})
    if different:
        raise ValueError(f"moments are missing or extra: {', '.join(different[:5])}")
    for full_name, tensor in moments.items():
        shape = parameters[of[full_name][1]].shape
        sizes = zip(tensor.shape, shape, strict=False)
        fits = tensor.dim() == 0 or len(tensor.shape) == len(shape)
        if not fits or any(n not in (1, m) for n, m in sizes) or not tensor.is_floating_point():
            form = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"{full_name} is {form}, not {tuple(shape)}")


def _like_new(moment: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A copy that lies in memory as the optimizer's own does: aligned, and as its parameter.

    Elsewhere some kernels sum in another order.
    """
    layout = parameter if moment.shape == parameter.shape else moment
    return torch.empty_like(layout, dtype=moment.dtype, device=moment.device).copy_(moment)


def _by_index(
    names: Sequence[str], moments: Mapping[str, torch.Tensor]
) -> dict[int, dict[str, torch.Tensor]]:
    """`exp_avg/NAME` and so on, as the optimizer's `load_state_dict` wants it."""
    index = {name: i for i, name in enumerate(names)}
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for full_name, tensor in moments.items():
        key, name = full_name.split("/", 1)
        entries.setdefault(index[name], {})[key] = tensor
    return entries


def _groups(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    own = optimizer.state_dict()["param_groups"]
    return [{**group, **saved} for group, saved in zip(own, values["param_groups"], strict=True)]


def _check_same(saved: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Raise `ValueError` with the first five differences in name, shape or dtype."""

    def form(tensors: Mapping[str, torch.Tensor], name: str) -> str:
        return f"{tuple(tensors[name].shape)} {tensors[name].dtype}" if name in tensors else "none"

    different = [n for n in sorted(saved.keys() | own.keys()) if form(saved, n) != form(own, n)]
    if different:
        first = "; ".join(f"{n}: {form(saved, n)}, not {form(own, n)}" for n in different[:5])
        raise ValueError(f"tensors differ: {first}")
