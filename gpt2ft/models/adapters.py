"""What of a model is trained, where not all of it is: LoRA through `peft`, and frozen parts.

LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685): a layer's weight stays, and a product of
two thin matrices, B A * alpha / r, is learned beside it. The matrices are added to the model in
place, by transformers' own `add_adapter`: it stays the `PreTrainedModel` that it is, so that loss,
kernels, probes and generation see what they know, and `save_pretrained` saves the adapter alone.
`peft.get_peft_model` would wrap it in a model of another type.
"""

from __future__ import annotations

import copy
import fnmatch
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

ADAPTER = "default"  # peft's name for the only one
NAMES_SHOWN = 8

# What of a foreign adapter_config.json is read, or does not change what the adapter computes.
UNDERSTOOD = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "fan_in_fan_out"),
    *("base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    # The layers are known from the names of the tensors.
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("auto_mapping", "init_lora_weights"),
}
# Other ways to begin change the weights of the model itself.
PLAIN_BEGINNINGS = (None, True, False, "gaussian", "orthogonal", "eva")
TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
NOT_IN_MAMBA = {"out_proj", "conv1d"}  # whose kernels go past an adapter: peft refuses them


def check_peft(what: str) -> None:
    """Raise `ValueError` if `peft` is not installed, which `what` needs."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{what} needs a library: pip install 'gpt2ft[lora]'") from error


def add_lora(
    model: Any, *, r: int, alpha: int, dropout: float, targets: Collection[str], seed: int
) -> None:
    """Freeze a model of transformers, and add LoRA to the layers that `targets` name.

    A target is the name of a layer, or its end: `c_attn` names that of every block. The new
    weights are a function of the seed, and at first nothing is added to what the model computes.
    Raises `ValueError` if a target names no linear layer, or one whose weight another layer shares.
    """
    import peft

    layers = _linear_layers(model)
    chosen = {name: layer for name, layer in layers.items() if _is_named(name, targets)}
    for target in targets:
        if not any(_is_named(name, [target]) for name in layers):
            raise ValueError(
                f"--lora_target_modules {target} names no linear layer of {type(model).__name__}, "
                f"there are {_some(_last_names(layers))}"
            )
    _refuse_shared(model, chosen)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in chosen.values()),
    )
    _inject(model, settings, seed=seed)
    settings.target_modules = sorted(targets)  # a set would be saved in any order


def default_targets(model: Any) -> list[str]:
    """The layers that get LoRA where nobody says so: those that `peft` knows for the architecture.

    They are the projections of attention. For an architecture that it does not know, every linear
    layer but the head (as in QLoRA, Dettmers et al., 2023).
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    layers = _linear_layers(model)
    known = KNOWN.get(model.config.model_type)
    if isinstance(known, list) and any(_is_named(name, known) for name in layers):
        return sorted(name for name in known if any(_is_named(n, [name]) for n in layers))
    head = model.get_output_embeddings()
    names = _last_names(name for name, layer in layers.items() if layer is not head)
    return sorted({*names} - (NOT_IN_MAMBA if model.config.model_type in MAMBA else set()))


def note_base(model: Any, name: str, revision: str) -> None:
    """Have the adapter's files name the model that it belongs to."""
    settings = model.peft_config[ADAPTER]
    settings.base_model_name_or_path = name
    settings.revision = None if revision == "main" else revision


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Do not train the parameters whose names fit one of the patterns: `*.wte.*`, `*.h.0.*`.

    `*` stands for any characters, dots too. A weight that is tied has two names, and either will
    do. Raises `ValueError` if a pattern fits nothing that is trained, or nothing is left to train.
    """
    trained = {n: p for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for pattern in patterns:
        found = fnmatch.filter(trained, pattern)
        if not found:
            raise ValueError(
                f"--freeze {pattern} fits no parameter that is trained, there are {_some(trained)}"
            )
        for name in found:
            trained[name].requires_grad_(False)
    if not any(p.requires_grad for p in trained.values()):
        raise ValueError(f"--freeze {' '.join(patterns)} leaves nothing to train, name less")


def fingerprint(model: nn.Module) -> str:
    """xxh3 of all weights of a model in their order."""
    digest = xxhash.xxh3_128()
    for tensor in model.parameters():
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def merged(model: Any) -> Any:
    """A plain model that computes what the model with its adapter does; the given one stays.

    It shares the weights that have no adapter, so it takes the memory of the others alone.
    """
    # Parameters of its own, so that merging, which gives them new tensors, leaves the given ones.
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()
    }
    plain = copy.deepcopy(model, shared)
    _merge(plain)
    return plain


def merge_saved(model: Any, settings: Mapping[str, Any], weights: Path) -> None:
    """Add an adapter that was saved to the weights of its model.

    `settings` is its adapter_config.json, `weights` its adapter_model.safetensors, which may come
    from anywhere: settings that would do more than add B A * alpha / r are refused, as is what
    imports a module. Raises `ValueError`.
    """
    import peft

    defaults = peft.LoraConfig().to_dict()
    unknown = [
        name
        for name, value in settings.items()
        if value and name not in UNDERSTOOD and value != defaults.get(name)
    ]
    if settings.get("init_lora_weights") not in PLAIN_BEGINNINGS:
        unknown.append("init_lora_weights")
    if unknown:
        raise ValueError(
            f"its adapter_config.json sets {_some(unknown)}, which is not supported here, merge it "
            "into its model with peft's merge_and_unload"
        )
    tensors = load_file(weights)
    r: Any = settings.get("r")
    layers = _adapted_layers(tensors, r)
    found = peft.LoraConfig(
        r=r,
        lora_alpha=settings.get("lora_alpha", defaults["lora_alpha"]),
        use_rslora=bool(settings.get("use_rslora")),
        fan_in_fan_out=bool(settings.get("fan_in_fan_out")),
        target_modules=layers,
    )
    _inject(model, found, seed=0)
    result: Any = peft.set_peft_model_state_dict(model, tensors, adapter_name=ADAPTER)
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        names = _some([*missing, *result.unexpected_keys])
        raise ValueError(f"its tensors are not those of its layers in this model, {names}")
    _merge(model)


def _adapted_layers(tensors: Mapping[str, torch.Tensor], r: Any) -> list[str]:
    """The layers that the tensors of an adapter belong to, by their names."""
    layers = set()
    for name, tensor in tensors.items():
        match = TENSOR.fullmatch(name)
        if match is None:
            raise ValueError(f"its tensor {name} is not one of LoRA, A or B of a layer")
        rank = tensor.shape[0 if match["side"] == "A" else -1] if tensor.dim() == 2 else None
        if rank != r:
            raise ValueError(f"its tensor {name} is {tuple(tensor.shape)}, but its r is {r}")
        layers.add(match["layer"])
    if not layers:
        raise ValueError("its adapter_model.safetensors holds no tensors")
    return sorted(layers)


def _inject(model: Any, settings: Any, *, seed: int) -> None:
    """Let transformers and peft add the adapter, its weights drawn from the seed."""
    with torch.random.fork_rng([]), warnings.catch_warnings():
        # That a Conv1D stores its weight transposed is noticed, and said, layer by layer.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        torch.default_generator.manual_seed(seed)
        model.add_adapter(settings, ADAPTER)


def _merge(model: Any) -> None:
    """Add the adapter to the weights, and take it out of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True, adapter_names=[ADAPTER])
            model.set_submodule(name, layer.get_base_layer())
    model.delete_adapter(ADAPTER)


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that can get LoRA, by their names."""
    return {n: layer for n, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}


def _refuse_shared(model: nn.Module, layers: Mapping[str, Any]) -> None:
    """Raise `ValueError` if another module shares a layer's weight: it would change with it."""
    owners: dict[int, int] = {}
    for _, p in model.named_parameters(remove_duplicate=False):
        owners[id(p)] = owners.get(id(p), 0) + 1
    for name, layer in layers.items():
        if owners[id(layer.weight)] > 1:
            raise ValueError(
                f"--lora_target_modules names {name}, whose weight is tied to the embedding or "
                "another layer, leave it out"
            )


def _is_named(name: str, targets: Collection[str]) -> bool:
    """Whether a target is that name, or its end, as `peft` has it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _last_names(names: Any) -> list[str]:
    """The ends of the names, each once."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def _some(names: Collection[str]) -> str:
    """The first names, as words."""
    first = ", ".join(list(names)[:NAMES_SHOWN])
    return f"{first}, ..." if len(names) > NAMES_SHOWN else first
