"""A model from a GGUF file: its weights in fp32, as a model of transformers like any other.

transformers reads such files. What it passes over is read here: sizes that it takes for the
default, the factors of rotary positions, the second token that ends a text. What it makes of a
file cannot be saved, as it is held to be quantised: a plain model takes the weights over.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .gguf import ARCHITECTURES, ROPE_FACTORS, check_gguf, named_tensors
from .gguf_header import TOKENS, Header, read_header

WAYS_OF_CUTTING = ("gpt-2", "qwen2", "llama-bpe", "default", None)
"""How text is cut by the tokenizers that can be read; by which the others are is not known."""
LLAMA3 = {
    "rope_type": "llama3",
    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}
"""The rotary positions of Llama 3.1 to 3.3, which differ in the factor alone."""
SHOWN = 5  # names of tensors in an error


def read_config(path: Path) -> Any:
    """The configuration of the model in a GGUF file.

    Raises `ValueError` if the file is damaged, or holds what cannot be read.
    """
    header = _checked(path)
    with _alone(path) as (folder, name):
        config: Any = AutoConfig.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    for setting in ("_model_name_or_path", "feed_forward_length"):
        vars(config).pop(setting, None)
    config.vocab_size = header.tensors["token_embd.weight"].shape[0]
    if config.model_type == "gpt2":
        config.n_positions = header.setting("context_length")
        config.n_inner = header.setting("feed_forward_length")
        return config
    size = header.setting("attention.key_length")
    config.head_dim = size or config.hidden_size // config.num_attention_heads
    turned = header.setting("rope.dimension_count") or config.head_dim
    if turned != config.head_dim:
        raise ValueError(f"it turns only {turned} of the {config.head_dim} features of a head")
    config.rope_parameters = _positions(path, header, config)
    return config


def read_model(path: Path, config: Any) -> Any:
    """The model of a GGUF file with that configuration, as `read_config` gives it, in fp32.

    Raises `ValueError` unless the file holds the tensors of such a model and no others.
    """
    header = read_header(path)
    _check_tensors(header, config)
    with _alone(path) as (folder, name), contextlib.redirect_stderr(io.StringIO()):  # a bar
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    read, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"transformers does not read {', '.join(sorted(info['missing_keys']))}")
    weights = {name: parameter.detach() for name, parameter in read.named_parameters()}
    model: Any = type(read).from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32
    )
    eos, eot = (header.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    if eos is not None and eot is not None and eos != eot and 0 <= eot < config.vocab_size:
        model.generation_config.eos_token_id = [eos, eot]
    return model.eval()


def read_tokenizer(path: Path) -> Any:
    """The tokenizer of a GGUF file, with its chat template. Raises `ValueError`."""
    header = _checked(path)
    if not header.values.get(TOKENS):
        raise ValueError("it holds no tokenizer, name another --tokenizer_name")
    way = header.values.get("tokenizer.ggml.pre")
    if header.values.get("tokenizer.ggml.model") not in ("gpt2", "llama") or (
        way not in WAYS_OF_CUTTING
    ):
        kind = f"{header.values.get('tokenizer.ggml.model')} ({way})"
        raise ValueError(f"its tokenizer {kind} cannot be read, name another --tokenizer_name")
    with _alone(path) as (folder, name):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    tokenizer.name_or_path = str(path)
    return tokenizer


def _checked(path: Path) -> Header:
    """The header, if it is one of a model that can be read."""
    check_gguf()
    header = read_header(path)
    if header.architecture not in ARCHITECTURES.values():
        known = ", ".join(dict.fromkeys(ARCHITECTURES.values()))
        raise ValueError(f"its architecture is {header.architecture}, only {known} can be read")
    if "token_embd.weight" not in header.tensors:
        raise ValueError("it lacks the tensor token_embd.weight, it holds no model")
    return header


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[tuple[str, str]]:
    """A folder in which the file is alone, and its name there.

    transformers would also read a tokenizer_config.json or an adapter beside it.
    """
    with tempfile.TemporaryDirectory(prefix="gpt2ft-gguf-") as folder:
        os.symlink(path.resolve(), os.path.join(folder, "model.gguf"))
        yield folder, "model.gguf"


def _check_tensors(header: Header, config: Any) -> None:
    """Raise `ValueError` unless the tensors have the shapes of the model: no size is believed."""
    blocks = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    if config.num_hidden_layers != len(blocks):
        raise ValueError(f"it says {config.num_hidden_layers} layers, but holds {len(blocks)}")
    with torch.device("meta"):  # takes no memory
        model = AutoModelForCausalLM.from_config(config)
    shapes = {found: tuple(values.shape) for _, found, values in named_tensors(model)}
    theirs = {name: info.shape for name, info in header.tensors.items() if name != ROPE_FACTORS}
    faults = {
        "lacks tensors": shapes.keys() - theirs.keys(),
        "has tensors that its architecture has no place for": theirs.keys() - shapes.keys(),
        "has tensors of another shape": {
            name for name in shapes.keys() & theirs.keys() if shapes[name] != theirs[name]
        },
    }
    for what, names in faults.items():
        if names:
            first = ", ".join(sorted(names)[:SHOWN])
            raise ValueError(f"it {what}, {first}, it is damaged or of another type")


def _positions(path: Path, header: Header, config: Any) -> dict[str, Any]:
    """The settings of rotary positions: the file says a base, and what frequencies are divided by.

    The factors of Llama 3 and equal ones have a name in transformers; others stand one by one.
    """
    plain = {"rope_theta": header.setting("rope.freq_base") or 10000.0}
    kind = header.setting("rope.scaling.type") or "none"
    if kind not in ("none", "linear"):
        raise ValueError(f"its rotary positions are scaled by {kind}, which cannot be read")
    if kind == "linear":
        return {**plain, "rope_type": "linear", "factor": header.setting("rope.scaling.factor")}
    if ROPE_FACTORS not in header.tensors:
        return {**plain, "rope_type": "default"}
    factors = _factors(path)
    if header.tensors[ROPE_FACTORS].shape != (config.head_dim // 2,):
        raise ValueError(f"its {ROPE_FACTORS} has another size than half a head")
    if bool((factors == factors[0]).all()):
        return {**plain, "rope_type": "linear", "factor": float(factors[0])}
    llama3 = {**plain, **LLAMA3, "factor": float(factors.max())}
    known = copy.deepcopy(config)
    known.rope_parameters = llama3
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](known, torch.device("cpu"))
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    if torch.allclose(frequencies, plain["rope_theta"] ** -exponents / factors, rtol=1e-4, atol=0):
        return llama3
    return {
        **plain,
        "rope_type": "longrope",  # with the same factors for short and long texts
        **dict.fromkeys(("short_factor", "long_factor"), factors.tolist()),
        **{"factor": 1.0, "attention_factor": 1.0},
        "original_max_position_embeddings": config.max_position_embeddings,
    }


def _factors(path: Path) -> torch.Tensor:
    """What each frequency of rotary positions is divided by."""
    import gguf

    (found,) = [t for t in gguf.GGUFReader(path).tensors if t.name == ROPE_FACTORS]
    factors = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type).copy())
    if not bool((factors > 0).all()):
        raise ValueError(f"its {ROPE_FACTORS} holds values that are no factors")
    return factors
