"""What is found out about a model by trying it, and whether a tokenizer fits it."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers

from ..guards import undisturbed

# What torch and transformers have no public name for; without them, what is computed is the same.
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
ATTENTION = "_attn_implementation"

SHARDED = "compute_with_whole_weights"
"""A method that `parallel.sharding` gives to a model."""

_plain: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def window(model: Any) -> int | None:
    """Most tokens that the model can attend to; None if it has no limit, or names none."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        return None
    size = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(size) if size else None


def attention_implementation(config: Any) -> str | None:
    """Name of the attention that a configuration chooses; None if that cannot be known."""
    name: str | None = getattr(config, ATTENTION, None)
    return name


def check_fit(model: Any, tokenizer: Any, block_size: int) -> None:
    """Raise `ValueError` if tokenizer and model do not fit, or `block_size` exceeds the window."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, but the model's embedding has {rows}: "
            "use the model's own tokenizer"
        )
    limit = window(model)
    if limit is not None and block_size > limit:
        raise ValueError(f"--block_size {block_size} is over the model's window, at most {limit}")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError("a weight of the model is not finite, it is damaged, name another")
    if not is_causal(model):
        raise ValueError(
            f"{type(model).__name__} sees the tokens it is to predict, use a model that is causal"
        )
    if block_size < 2:
        raise ValueError(f"--block_size {block_size} leaves nothing to predict, at least 2")


def keeps_documents_apart(model: Any) -> bool:
    """Whether the model attends within documents where `position_ids` restart: most do, not all.

    Tried on two documents in one row: the second must give the logits it gives alone. Some take
    positions from the attention mask (OPT), have none (BLOOM), or remember (Mamba).
    """
    with undisturbed(model):
        ids = torch.tensor([[1, 2, 2, 1]], device=model.device)
        positions = torch.tensor([[0, 1, 0, 1]], device=model.device)
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = model(input_ids=ids[:, 2:], use_cache=False).logits
    return bool(torch.allclose(packed[:, 2:], alone, rtol=1e-3, atol=1e-4))


def is_causal(model: Any) -> bool:
    """Whether no token sees those behind it; `AutoModelForCausalLM` also loads BERT, which does."""
    with undisturbed(model):
        ids = torch.tensor([[1, 2, 2, 1], [1, 2, 2, 2]], device=model.device)
        one, other = model(input_ids=ids, use_cache=False).logits[:, :3]
    # Relative to all of them: those of a new model are small. Causal ones differ by nothing at all.
    return bool((one - other).norm() <= 1e-5 * one.norm())


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that a model is a stack of: its largest `ModuleList`, if it has one."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    size = {group: sum(p.numel() for p in group.parameters()) for group in lists}
    return list(max(lists, key=lambda group: size[group], default=[]))


def plain_head(model: Any) -> torch.Tensor | None:
    """The weight `(V, D)` of the model's head, if its logits are the hidden states times that.

    None for a head with a bias or a hook, and where something else is done to hidden states or
    logits (Gemma 2 caps them, Cohere and Granite scale them): that is tried, once for a model. The
    answer does not depend on the values of the weights.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        return None
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return None
    if _is_hooked(model) or _is_hooked(head):
        return None
    if model not in _plain:
        _plain[model] = _nothing_else_is_done(model, head)
    return head.weight if _plain[model] else None


def _nothing_else_is_done(model: Any, head: torch.nn.Module) -> bool:
    """Whether the head gets the hidden states as they are, and what it gives are the logits.

    Hooks replace both by numbers of ours, so large that any cap changes them. What is compared must
    not depend on any weight: a learned scale may happen to be 1 now.
    """
    if model.base_model is model:
        return False
    compared: list[torch.Tensor] = []
    replaced, trying = False, True

    def replace(module: torch.nn.Module, inputs: Any, output: Any) -> torch.Tensor | None:
        nonlocal replaced
        if trying and module is head:
            compared.append(inputs[0])
            return _large_numbers(output)
        hidden = getattr(output, "last_hidden_state", None)
        if trying and not replaced and hidden is not None:
            output.last_hidden_state = _large_numbers(hidden)
            replaced = True  # in the innermost module that returns them
        return None

    hooks = []
    try:
        hooks += [module.register_forward_hook(replace) for module in model.modules()]
        with undisturbed(model), torch.enable_grad():
            ids = torch.tensor([[1, 2, 2]], device=model.device)  # some vocabularies are small
            compared.append(model(input_ids=ids, use_cache=False).logits)
            replaced = False
            compared.append(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    finally:
        trying = False  # an interrupt may leave a hook that is not in `hooks`: it does nothing now
        for hook in hooks:
            hook.remove()
    ours = (torch.equal(x, _large_numbers(x)) and not x.requires_grad for x in compared)
    return len(compared) == 3 and all(ours)


def _large_numbers(like: torch.Tensor) -> torch.Tensor:
    """From -1000 to 1000 in a tensor of that shape, dtype and device; exact in any dtype."""
    numbers = torch.arange(like.numel(), device=like.device) % 251 * 8 - 1000
    return numbers.to(like.dtype).view(like.shape)


def _is_hooked(module: torch.nn.Module) -> bool:
    """Whether a forward hook is registered on the module; True where that cannot be known."""
    hooks = [getattr(module, name, None) for name in HOOKS]
    if None in hooks:
        return True
    n_own = 2 if hasattr(module, SHARDED) else 0  # by which its weights are gathered
    return sum(map(len, filter(None, hooks))) > n_own
