"""The training state as named tensors and plain values, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..loop import TrainState

COUNTERS = ("seed", "step", "batches", "tokens")


def parameters_by_name(state: TrainState) -> dict[str, torch.nn.Parameter]:
    """The optimizer's parameters by their names in the model, in its order.

    Raises `ValueError` if its groups do not name them, or name others.
    """
    groups = state.optimizer.param_groups
    if not all("param_names" in group for group in groups):
        raise ValueError(
            "the optimizer's groups name no parameters, make it of model.named_parameters() or "
            "gpt2ft.parameter_groups(model, weight_decay)"
        )
    pairs = [p for g in groups for p in zip(g["param_names"], g["params"], strict=True)]
    own = dict(state.model.named_parameters())
    others = [name for name, parameter in pairs if own.get(name) is not parameter]
    if others:
        raise ValueError(
            f"the optimizer's parameters are not those of the model, {', '.join(others[:5])}, make "
            "it of the model that is trained, after that has been wrapped or moved"
        )
    return dict(pairs)


def _optimizer_values(state: TrainState) -> dict[str, Any]:
    """Optimizer state by parameter NAME: by index, a changed order would load silently."""
    values = {
        f"{key}/{name}": value
        for name, parameter in parameters_by_name(state).items()
        for key, value in state.optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    return dict(sorted(values.items()))  # what was loaded is in another order


def optimizer_tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """The tensors of the optimizer's state, as `exp_avg/NAME`."""
    values = _optimizer_values(state)
    return {n: value for n, value in values.items() if isinstance(value, torch.Tensor)}


def state_values(state: TrainState) -> dict[str, Any]:
    """All of the state that is not a tensor, for JSON; shape and dtype of the optimizer's tensors.

    Raises `ValueError` if the optimizer holds what a checkpoint cannot.
    """
    moments = _optimizer_values(state)
    numbers = {n: value for n, value in moments.items() if not isinstance(value, torch.Tensor)}
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in state.optimizer.param_groups
    ]
    _check_can_be_held(state.optimizer, moments, groups)
    return {
        **{name: getattr(state, name) for name in COUNTERS},
        "skipped_steps": int(state.skipped_steps),
        "precision": state.precision.name,
        "scaler": state.scaler.state_dict(),
        "param_groups": groups,
        "moments": {n: _form(value) for n, value in moments.items() if n not in numbers},
        "numbers": numbers,
    }


def _check_can_be_held(
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, Any],
    groups: Iterable[Mapping[str, Any]],
) -> None:
    """Raise `ValueError` unless state is dense tensors and numbers, options numbers and texts."""
    wrong = {name: v for name, v in moments.items() if not (_is_plain(v) or _is_dense(v))}
    for group in groups:
        wrong |= {f"{name} of a group": v for name, v in group.items() if not _is_option(v)}
    for name, value in wrong.items():
        raise ValueError(
            f"{type(optimizer).__name__} holds {name}, a {type(value).__name__}, which a "
            "checkpoint cannot hold, keep it as a number, or for each parameter as a dense "
            "tensor or a number"
        )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_option(value: Any) -> bool:
    return all(map(_is_option, value)) if isinstance(value, (list, tuple)) else _is_plain(value)


def _is_dense(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by their names in `state_dict`; tied names have the same tensor."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    return {name: tensors[name] for name in model.state_dict() if name in tensors}


def trained_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters that are trained, and buffers: without the frozen model under an adapter."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    own = dict(model.named_parameters())  # which names tied weights once
    tensors = {n: t for n, t in model.state_dict().items() if n not in frozen}
    tied = {n for n, p in model.named_parameters(remove_duplicate=False) if n not in own}
    return {name: t.detach() for name, t in tensors.items() if name not in tied}


def restore(
    state: TrainState,
    values: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    extra: Mapping[str, torch.Tensor],
    *,
    whole: bool = True,
) -> None:
    """Bring model, optimizer, scaler, counters and extra tensors to what was saved.

    Unless `whole`, the weights are what `trained_tensors` gives. Raises `ValueError` if something
    does not fit, before anything is changed.
    """
    if values["precision"] != state.precision.name:
        raise ValueError(
            f"it was trained in {values['precision']}, this run is in {state.precision.name}, "
            f"add --precision {values['precision']}"
        )
    parameters = parameters_by_name(state)
    saved_names = [name for group in values["param_groups"] for name in group["param_names"]]
    if list(parameters) != saved_names:
        different = sorted(parameters.keys() ^ set(saved_names))[:5]
        raise ValueError(f"it holds the moments of other parameters: {', '.join(different)}")
    own = state.model.state_dict()
    if not whole:
        own = {name: own[name] for name in trained_tensors(state.model)}
    _check_same(_forms(weights), _forms(own))
    _check_same(_forms(moments), values.get("moments", _forms(moments)))
    _check_same(_forms(extra), _forms(state.extra))
    groups = _groups(state.optimizer, values)
    scale, counters = values["scaler"], {name: values[name] for name in COUNTERS}
    skipped_steps = torch.tensor(values["skipped_steps"])

    state.model.load_state_dict(weights, strict=whole)
    entries: dict[str, dict[str, Any]] = {}
    for full_name, value in {**moments, **values.get("numbers", {})}.items():
        key, name = full_name.split("/", 1)
        entries.setdefault(name, {})[key] = _like_new(value, parameters[name])
    _load_optimizer(state.optimizer, parameters, entries, groups)
    if scale:
        state.scaler.load_state_dict(scale)
    for name, value in counters.items():
        setattr(state, name, value)
    state.skipped_steps = skipped_steps
    with torch.no_grad():
        for name, tensor in extra.items():
            state.extra[name].copy_(tensor)


def _load_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    entries: Mapping[str, dict[str, Any]],
    groups: list[dict[str, Any]],
) -> None:
    """Let the optimizer load its state, and undo what torch does to it besides."""
    own_state, own_groups = optimizer.state, optimizer.param_groups
    by_index = {i: dict(entries[n]) for i, n in enumerate(parameters) if n in entries}
    optimizer.load_state_dict({"state": by_index, "param_groups": groups})
    # It replaces the objects that hold state and groups: optimizers that share them, to train as
    # one, would keep the old ones.
    for own, loaded in zip(own_groups, optimizer.param_groups, strict=True):
        own.update(loaded)
    optimizer.param_groups = own_groups
    loaded_state = dict(optimizer.state)
    own_state.clear()
    own_state.update(loaded_state)
    optimizer.state = own_state
    for name, entry in entries.items():
        loaded = own_state[parameters[name]]
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):  # it casts to the dtype of the parameter
                loaded[key] = value.to(loaded[key].device)


def _like_new(value: Any, parameter: torch.Tensor) -> Any:
    """A moment, in memory as the optimizer would lay it: aligned, and ordered as its parameter.

    Elsewhere some kernels sum in another order. What is no tensor stays as it is.
    """
    if not isinstance(value, torch.Tensor):
        return value
    layout = parameter if value.shape == parameter.shape else value
    return torch.empty_like(layout, dtype=value.dtype, device=value.device).copy_(value)


def _groups(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    own = optimizer.state_dict()["param_groups"]
    return [{**group, **saved} for group, saved in zip(own, values["param_groups"], strict=True)]


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _forms(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: _form(tensor) for name, tensor in tensors.items()}


def _check_same(saved: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Raise `ValueError` with the first five differences in name, shape or dtype."""
    names = sorted(saved.keys() | own.keys())
    different = [n for n in names if saved.get(n) != own.get(n)]
    if different:
        first = [f"{n}: {saved.get(n, 'none')}, not {own.get(n, 'none')}" for n in different[:5]]
        raise ValueError(f"tensors differ: {'; '.join(first)}")
