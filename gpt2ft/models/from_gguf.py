"""A GGUF file as a model to train and to generate with: its weights unpacked to fp32.

transformers reads the file, see `gguf.read_gguf`. It marks what it read as quantised, which can
neither be saved nor trained further as it is; here it becomes a plain model.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from .gguf import check_gguf, read_gguf, read_gguf_tokenizer

# What a configuration has of the file alone.
ONLY_OF_FILES = ("quantization_config", "n_ctx", "feed_forward_length", "_model_name_or_path")
# Rotary positions of Llama 3.1 and 3.2, of which a file holds the factors and not the settings.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3_FACTORS = (8.0, 32.0)


def load_gguf(name: str, prepare: Callable[[Any], None]) -> Any:
    """The model of a GGUF file, in fp32, in evaluation mode.

    `prepare` changes its configuration before it is made. Raises `FileNotFoundError`, or
    `ValueError` if it cannot be read, or no saved model could hold what it computes.
    """
    with _reading(name) as path:
        read = read_gguf(path)
    config = copy.deepcopy(read.config)
    for setting in ONLY_OF_FILES:
        vars(config).pop(setting, None)
    config.name_or_path = ""
    prepare(config)
    model = _with_positions_of(read, config)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model.eval()


def load_gguf_tokenizer(name: str) -> Any:
    """The tokenizer of a GGUF file, with its chat template. Raises as `load_gguf` does."""
    with _reading(name) as path:
        tokenizer = read_gguf_tokenizer(path)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:
            raise ValueError("it has no vocabulary")
        return tokenizer


def weight_type(name: str) -> str:
    """How most weights of a GGUF file are kept: `Q8_0`, `F16`, ... Raises as `load_gguf` does."""
    import gguf

    with _reading(name) as path:
        sizes: Counter[str] = Counter()
        for tensor in gguf.GGUFReader(path).tensors:
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        if not sizes:
            raise ValueError("it holds no tensors")
        return sizes.most_common(1)[0][0]


@contextlib.contextmanager
def _reading(name: str) -> Iterator[Path]:
    """The path of the file; the many errors of a file that is damaged become one sentence."""
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.absolute()}")
    check_gguf()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # of bars and warnings of the libraries
            yield path
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{path.absolute()} cannot be read as a GGUF model, {reason}: it is damaged, or of a "
            "type that transformers does not read"
        ) from error


def _with_positions_of(read: Any, config: Any) -> Any:
    """A new model of that configuration, with the rotary positions of the one that was read.

    Raises `ValueError` if no setting that is known here has them.
    """
    wanted = _frequencies(read)
    if wanted is None:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain = config.rope_parameters
    for settings in _rope_settings(wanted):
        config.rope_parameters = {**plain, **settings}
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if torch.allclose(_frequencies(model), wanted, rtol=1e-4, atol=0):
            return model
    raise ValueError("it scales its positions by factors of which no setting is known here")


def _rope_settings(wanted: torch.Tensor) -> list[dict[str, Any]]:
    """Settings that may have these frequencies: none, Llama 3's, or one factor for all."""
    llama3 = [{**LLAMA3, "rope_type": "llama3", "factor": factor} for factor in LLAMA3_FACTORS]
    # The first frequency is 1 before it is divided.
    return [{}, *llama3, {"rope_type": "linear", "factor": 1 / float(wanted[0])}]


def _frequencies(model: Any) -> Any:
    """The frequencies of rotary positions `(D/2,)`; None for a model without them."""
    named = (
        buffer for name, buffer in model.named_buffers() if name.endswith("rotary_emb.inv_freq")
    )
    return next(named, None)
