"""The parts of a step that the libraries compute slowly on a CPU, computed faster: same results.

Each part names what it replaces, and is tested against it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import transformers
from torch import nn

from ..models.probe import attention_implementation, blocks
from .attention import attention
from .attention_by_text import attention_by_text
from .dropout import Dropout
from .gpt2_decoding import GPT2Decoding
from .int8_linear import Int8Linear
from .packed_linear import PackedLinear, can_pack
from .tied_embedding import TiedEmbedding, can_share

ATTENTION, BY_TEXT = "gpt2ft", "gpt2ft_by_text"


def accelerate(model: nn.Module) -> None:
    """Replace the parts of a model on a CPU for which there is something faster here.

    GPT-2's activation as one kernel; attention of short rows and with dropout; dropout; and the
    gradient of an embedding that is tied to the head. A model of other parts, or on another device,
    stays as it is; one that is moved to another device later computes there as torch does. What is
    saved of the model does not change. See also `keep_freed_memory`.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    gelu = getattr(transformers.activations, "NewGELUActivation", None)
    if gelu is not None:
        _swap(model, gelu, lambda _: nn.GELU(approximate="tanh"))
    _swap(model, nn.Dropout, lambda child: Dropout(child.p))
    if attention_implementation(getattr(model, "config", None)) == "sdpa":
        _attend_by(model, ATTENTION, attention)
    if isinstance(model, transformers.PreTrainedModel):
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if can_share(embedding, head):
            embedding.__class__ = TiedEmbedding


def compile_blocks(model: nn.Module) -> None:
    """Compile each block with `torch.compile`: in the first step, once for all that are alike.

    The head is not compiled, because the loss uses it separately; nor is the embedding: compiled
    for a CPU, its gradient would be added up in no fixed order. A batch of another shape causes
    another compilation.
    """
    for block in blocks(model):
        block.compile()


def pack_linear(model: nn.Module) -> None:
    """Replace `nn.Linear` and GPT-2's `Conv1D` by `PackedLinear`, if this build of torch has it.

    For a model on a CPU that only generates: afterwards its state must not be saved.
    """
    if not can_pack(next(p for p in model.parameters() if p.dim() == 2)):
        return
    _swap(model, nn.Linear, lambda child: PackedLinear(child.weight, child.bias))
    _swap(model, transformers.Conv1D, lambda child: PackedLinear(child.weight.T, child.bias))


def quantise_linear(model: nn.Module) -> None:
    """Replace `nn.Linear` and GPT-2's `Conv1D` by `Int8Linear`, where `can_quantise()`.

    For a model on a CPU, in fp32, that only generates: afterwards its state must not be saved. What
    it writes of a text does not depend on the others in the batch, if its attention is `sdpa`.
    """
    _swap(model, nn.Linear, lambda child: Int8Linear(child.weight, child.bias))
    _swap(model, transformers.Conv1D, lambda child: Int8Linear(child.weight.T, child.bias))
    if attention_implementation(getattr(model, "config", None)) in ("sdpa", ATTENTION):
        _attend_by(model, BY_TEXT, attention_by_text)


def decode_faster(model: nn.Module) -> None:
    """Let GPT-2 on a CPU, after `accelerate`, read the next token in few calls; others stay."""
    usual = type(model) is transformers.GPT2LMHeadModel and not model.config.add_cross_attention
    if usual and attention_implementation(model.config) in (ATTENTION, BY_TEXT):
        part: Any = model.transformer
        part.forward = GPT2Decoding(part)


def _attend_by(model: nn.Module, name: str, function: Callable[..., Any]) -> None:
    """Give a model, whose attention is `sdpa`, another that takes the same masks."""
    mask = transformers.AttentionMaskInterface()["sdpa"]
    transformers.AttentionInterface.register(name, function)
    transformers.AttentionMaskInterface.register(name, mask)
    model.set_attn_implementation(name)  # type: ignore[operator]


def _swap(model: nn.Module, kind: type, replacement: Callable[[Any], nn.Module]) -> None:
    """Replace every module that is of that very kind."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is kind:
                setattr(module, name, replacement(child).train(child.training))


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, for the whole process.

    For a program that trains or generates on a CPU: glibc returns the memory of large tensors to
    the system, which fills each page with zeros when the next step asks for it again. Programs call
    this themselves, since it concerns everything in the process. Without glibc it does nothing.
    """
    if sys.platform != "linux":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 256 << 20)
