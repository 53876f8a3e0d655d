"""Models as GGUF files, which llama.cpp and Ollama run: how they are written.

The form of a file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The names of tensors
are those of the `gguf` package. llama.cpp computes each architecture in one way: a model whose
configuration asks for another is refused, as it would load and write nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from .gguf_tokenizer import add_tokenizer

ARCHITECTURES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""What llama.cpp calls the types that can be written."""
TYPES = ("f16", "q8_0")
ROPE_FACTORS = "rope_freqs.weight"
LARGEST_F16 = 65504.0

# The only value of a setting that llama.cpp computes with.
COMPUTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    "qwen2": {"hidden_act": ("silu",)},
    "qwen3": {"hidden_act": ("silu",), "attention_bias": (False,)},
}


def check_gguf() -> None:
    """Raise `ValueError` if what reads and writes GGUF files is not installed."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise ValueError(f"GGUF files need a library: pip install 'gpt2ft[gguf]' ({error})") from (
            error
        )


def check_written(config: Any) -> None:
    """Raise `ValueError` unless a model of that configuration can be written as a GGUF file."""
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"a model of type {config.model_type} cannot be written as GGUF, only "
            f"{', '.join(ARCHITECTURES)}"
        )
    for name, computed in COMPUTED[ARCHITECTURES[config.model_type]].items():
        if (value := getattr(config, name, computed[0])) not in computed:
            raise ValueError(f"its {name} is {value}, but llama.cpp computes with {computed[0]}")
    kind = _rope(config).get("rope_type", "default")
    known = ("default", "linear", "llama3") if _is_llama(config) else ("default",)
    if kind not in known:
        raise ValueError(f"its rope_type is {kind}, but only {', '.join(known)} can be written")


def write_gguf(
    path: Path, model: Any, tokenizer: Any, *, type: str, metadata: Mapping[str, str]
) -> None:
    """Write a model and its tokenizer into a GGUF file.

    `type` is `f16`, or `q8_0`: blocks of 32 weights of 8 bits with one factor in 16 bits, 8.5 bits
    a weight. Vectors and positions stay in fp32, and matrices whose rows are no whole blocks in
    f16. `metadata` are further texts of the file, by key. Raises `ValueError` for what cannot be
    written.
    """
    import gguf

    config = model.config
    check_written(config)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type])
    try:
        for key, value in metadata.items():
            writer.add_string(key, value)
        file_type = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}[type]
        writer.add_file_type(gguf.LlamaFileType[file_type])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config)
        add_tokenizer(writer, model, tokenizer)
        for name, tensor in _tensors(model):
            data, kind = _encoded(name, tensor, type)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def longest_context(config: Any) -> int:
    """Tokens up to which llama.cpp computes what the model does: it leaves out sliding windows."""
    sizes = (config.max_position_embeddings, getattr(config, "sliding_window", None))
    return min(int(size) for size in sizes if size)


def _add_shape(writer: Any, config: Any) -> None:
    """What the layers need to know besides their weights."""
    writer.add_context_length(longest_context(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = _head_size(config)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def named_tensors(model: Any) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Each parameter's name, its name in the file, and its values as they lie there.

    A head that is the embedding comes once, as the embedding. Raises `ValueError` for a parameter
    that has no name in such a file.
    """
    import gguf

    config = model.config
    architecture = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(
        architecture[ARCHITECTURES[config.model_type]], config.num_hidden_layers
    )
    for name, parameter in model.named_parameters():
        module, _, end = name.rpartition(".")
        found = table.get_name(module)
        if found is None:
            raise ValueError(f"the model has the tensor {name}, for which GGUF has no name")
        is_turned = end == "weight" and isinstance(model.get_submodule(module), Conv1D)
        yield name, f"{found}.{end}", parameter.detach().T if is_turned else parameter.detach()


def _tensors(model: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each tensor by its name in the file, in fp32, as llama.cpp wants it laid out."""
    config = model.config
    for name, found, values in named_tensors(model):
        tensor = values.float().cpu()
        if _is_llama(config) and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads
            tensor = _interleaved(
                tensor, heads if name.endswith("q_proj.weight") else config.num_key_value_heads
            )
        yield found, tensor.contiguous().numpy()
    if (factors := _rope_factors(model)) is not None:
        yield ROPE_FACTORS, factors


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a projection in the order of llama.cpp's Llama.

    Rotary positions turn pairs of features: in transformers the first with one of the second half
    of a head, in llama.cpp two neighbours.
    """
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _rope_factors(model: Any) -> np.ndarray[Any, Any] | None:
    """What each frequency of rotary positions is divided by, as in Llama 3.1; None for nothing."""
    config = model.config
    if _rope(config).get("rope_type", "default") == "default":
        return None
    size = _head_size(config)
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    plain = _rope(config)["rope_theta"] ** -exponents
    factors: np.ndarray[Any, Any] = (plain / model.model.rotary_emb.inv_freq.cpu()).float().numpy()
    return factors


def _encoded(
    name: str, tensor: np.ndarray[Any, Any], type: str
) -> tuple[np.ndarray[Any, Any], Any]:
    """A tensor's bytes as they stand in the file, and their type."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if tensor.ndim < 2 or name.startswith("position_embd"):
        return tensor, kinds.F32
    if type == "q8_0" and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kinds.Q8_0][0] == 0:
        return gguf.quantize(tensor, kinds.Q8_0), kinds.Q8_0
    largest = np.abs(tensor).max()
    if not largest <= LARGEST_F16:
        raise ValueError(f"{name} holds {largest:g}, f16 holds at most {LARGEST_F16:g}")
    return tensor.astype(np.float16), kinds.F16


def _is_llama(config: Any) -> bool:
    return ARCHITECTURES[config.model_type] == "llama"


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", 0) or config.hidden_size // config.num_attention_heads)


def _rope(config: Any) -> dict[str, Any]:
    """The settings of rotary positions, empty for a type that has none."""
    return getattr(config, "rope_parameters", None) or {}
