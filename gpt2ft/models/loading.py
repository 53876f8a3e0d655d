"""Model and tokenizer: loaded or made anew, and checked to fit each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..system.hub import located
from .untrusted import check_model, check_tokenizer, drop_code, loading

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 8192

_plain: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def load_tokenizer(name: str, *, revision: str = "main") -> Any:
    """The tokenizer of a folder, of `gpt2-mini`, which is built in, or of a model on the hub.

    No code that comes with it is run. Where it has no pad token, end-of-text serves. Raises
    `FileNotFoundError`, `ValueError` or `HubUnavailableError`.
    """
    name = located(name)
    with loading("tokenizer", name, revision) as commit:
        check_tokenizer(name, commit)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=commit, trust_remote_code=False)
        if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made without any file
            raise ValueError("it has no vocabulary, name another --tokenizer_name")
    tokenizer.init_kwargs.pop("auto_map", None)  # nor is it handed on with what is saved
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, revision: str = "main", dropout: float | None = None) -> Any:
    """A causal language model in fp32, in evaluation mode: a folder, `gpt2-mini`, or of the hub.

    Only safetensors are read, and no code that comes with a model is run: one that `transformers`
    knows is loaded without it. `dropout` sets all its dropout probabilities. Raises
    `FileNotFoundError`, `HubUnavailableError`, or `ValueError` if it is no causal language model,
    wants what is refused, or tensors are missing.
    """
    name = located(name)
    with loading("model", name, revision) as commit:
        check_model(name, commit)
        config: Any = AutoConfig.from_pretrained(name, revision=commit, trust_remote_code=False)
        drop_code(config)
        _set_dropout(config, dropout)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            revision=commit,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=None,  # what this machine has, whatever the model names
            experts_implementation=None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    model, info = loaded
    faults = {
        "lacks tensors": info["missing_keys"],
        "has tensors of another shape": {key[0] for key in info["mismatched_keys"]},
        "has tensors that its configuration has no place for": info["unexpected_keys"],
    }
    for what, names in faults.items():
        if names:
            first = ", ".join(sorted(names)[:5])
            raise ValueError(f"model {name} {what}, {first}, it is damaged or of another type")
    return model


def new_model(
    model_type: str,
    *,
    tokenizer: Any,
    overrides: str | None = None,
    dropout: float | None = None,
) -> Any:
    """A model of that type with random weights, its vocabulary that of the tokenizer.

    `overrides` changes its configuration: `n_layer=4,n_embd=192`. Weights are drawn from torch's
    global generator. Raises `ValueError` for a type or setting that there is not.
    """
    settings = parse_overrides(overrides)
    try:
        known = AutoConfig.for_model(model_type)
        unknown = [name for name in settings if not hasattr(known, name)]
        if unknown:
            raise ValueError(f"--config_overrides {unknown[0]} is no setting of {model_type}")
        settings = {"vocab_size": len(tokenizer), **settings}
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            settings.setdefault(name, getattr(tokenizer, name))
        config = AutoConfig.for_model(model_type, **settings)
        _set_dropout(config, dropout)
        if config.get_text_config().num_hidden_layers < 1:
            raise ValueError(f"{config.num_hidden_layers} layers, give at least 1")
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # the libraries' many
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"no new model of type {model_type}, {reason}") from error


def parse_overrides(overrides: str | None) -> dict[str, Any]:
    """`n_layer=4,n_embd=192` as `{"n_layer": 4, "n_embd": 192}`."""
    settings = {}
    for item in filter(None, (overrides or "").split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--config_overrides {item} is no setting, write name=value")
        settings[name.strip()] = yaml.safe_load(value)
    return settings


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = DEFAULT_VOCAB_SIZE) -> Any:
    """A byte-level BPE like GPT-2's (Radford et al., 2019), trained on the texts.

    Its first entry is the end-of-text token, which also begins and pads.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _set_dropout(config: Any, dropout: float | None) -> None:
    """Set every dropout probability that the configuration has, whatever the model calls it."""
    if dropout is None:
        return
    for name, value in config.to_dict().items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and ("dropout" in name or name.endswith("pdrop")):
            setattr(config, name, dropout)


def window(model: Any) -> int | None:
    """Most tokens that the model can attend to; None if it has no limit, or names none."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        return None
    size = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(size) if size else None


def check_fit(model: Any, tokenizer: Any, block_size: int) -> None:
    """Raise `ValueError` if tokenizer and model do not fit, or `block_size` exceeds the window."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries, the model's embedding {rows}, "
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
    with _looking(model):
        ids = torch.tensor([[1, 2, 2, 1]], device=model.device)
        positions = torch.tensor([[0, 1, 0, 1]], device=model.device)
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = model(input_ids=ids[:, 2:], use_cache=False).logits
    return bool(torch.allclose(packed[:, 2:], alone, rtol=1e-3, atol=1e-4))


def is_causal(model: Any) -> bool:
    """Whether no token sees those behind it; `AutoModelForCausalLM` also loads BERT, which does."""
    with _looking(model):
        ids = torch.tensor([[1, 2, 2, 1], [1, 2, 2, 2]], device=model.device)
        one, other = model(input_ids=ids, use_cache=False).logits[:, :3]
    # Relative to all of them: those of a new model are small. Causal ones differ by nothing at all.
    return bool((one - other).norm() <= 1e-5 * one.norm())


def plain_head(model: Any) -> torch.Tensor | None:
    """The weight `(V, D)` of the model's head, if its logits are the hidden states times that.

    None for a head with a bias or a hook, and where something else is done to the logits (Gemma
    caps them, Cohere scales them): that is tried, once for a model.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        return None
    head = model.get_output_embeddings()
    hooks = (model._forward_hooks, model._forward_pre_hooks)
    if type(head) is not torch.nn.Linear or head.bias is not None or any(hooks):
        return None
    if head._forward_hooks or head._forward_pre_hooks:
        return None
    if model not in _plain:
        with _looking(model):
            ids = torch.tensor([[1, 2, 3]], device=model.device)
            hidden = model.base_model(input_ids=ids, use_cache=False)[0]
            logits = model(input_ids=ids, use_cache=False).logits
            _plain[model] = torch.allclose(head(hidden), logits, rtol=1e-3, atol=1e-4)
    return head.weight if _plain[model] else None


@contextlib.contextmanager
def _looking(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; the mode comes back after."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
