"""A tokenizer as it stands in a GGUF file.

llama.cpp knows two kinds that matter here. Byte-level BPE (Radford et al., 2019) has its merges in
the file, and a name for the way in which text is cut before they are applied. The BPE of
SentencePiece, as Llama 2's, has a score for each token instead: of all neighbours that make up a
token those are merged first whose token has the highest.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any

from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2

LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CUT_BY = {QWEN2: "qwen2", LLAMA3: "llama-bpe"}
"""What llama.cpp calls the expressions that cut text."""
SPACE = "\u2581"


class Kind(enum.IntEnum):
    """What a token is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    """Written by a program, never found in a user's text."""
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def add_tokenizer(writer: Any, model: Any, tokenizer: Any) -> None:
    """Write the tokenizer, its special tokens and its chat template.

    Where the model's embedding has more rows than the tokenizer has tokens, tokens that nothing
    uses fill them. Raises `ValueError` for a tokenizer that llama.cpp would not follow.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    bpe = made["model"]
    if bpe["type"] != "BPE" or not bpe["merges"]:
        kind = "BPE without merges" if bpe["type"] == "BPE" else bpe["type"]
        raise ValueError(f"its tokenizer is {kind}, but only BPE can be written as GGUF")
    is_sentencepiece = bool(bpe.get("byte_fallback"))
    tokens, kinds = _tokens(made, rows, tokenizer.unk_token if is_sentencepiece else None)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    if is_sentencepiece:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_add_space_prefix(_begins_with_space(made))
        writer.add_token_scores(_scores(tokens, merges))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_way_of_cutting(made))
        writer.add_token_merges(merges)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special(writer, model, tokenizer)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens with which the model ends a text, that of the tokenizer first."""
    named = getattr(model.generation_config, "eos_token_id", None)
    named = [named] if isinstance(named, int) else named or []
    found = [tokenizer.eos_token_id, *named]
    return list(dict.fromkeys(token for token in found if token is not None))


def _tokens(
    made: Mapping[str, Any], rows: int, unknown: str | None
) -> tuple[list[str], list[Kind]]:
    """The text of each token and what it is."""
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds = [Kind.UNUSED] * rows
    vocab = made["model"]["vocab"]
    largest = max([*vocab.values(), *(added["id"] for added in made["added_tokens"])], default=0)
    if largest >= rows:
        raise ValueError(f"its tokenizer has token id {largest}, but the embedding has {rows} rows")
    for text, number in vocab.items():
        is_byte = unknown is not None and len(text) == 6 and text.startswith("<0x")
        tokens[number], kinds[number] = text, Kind.BYTE if is_byte else Kind.NORMAL
    for added in made["added_tokens"]:
        kind = Kind.CONTROL if added["special"] else Kind.USER_DEFINED
        kind = Kind.UNKNOWN if added["content"] == unknown else kind
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    return tokens, kinds


def _way_of_cutting(made: Mapping[str, Any]) -> str:
    """llama.cpp's name for how text is cut before merges are applied."""
    how = made["pre_tokenizer"] or {}
    steps = how["pretokenizers"] if how.get("type") == "Sequence" else [how]
    last = steps[-1]
    spaced = last.get("add_prefix_space")
    normalizer = (made["normalizer"] or {}).get("type")
    if last.get("type") == "ByteLevel" and not spaced:
        if len(steps) == 1 and last.get("use_regex") and normalizer is None:
            return "gpt-2"
        # Qwen 2 also composes characters (NFC), which llama.cpp leaves out.
        expression = steps[0].get("pattern", {}).get("Regex")
        is_cut = len(steps) == 2 and not last.get("use_regex") and normalizer in (None, "NFC")
        if is_cut and expression in CUT_BY:
            return CUT_BY[expression]
    raise ValueError(
        "its tokenizer cuts text in another way than those of GPT-2, Llama 3 and Qwen 2: it cannot "
        "be written as GGUF"
    )


def _begins_with_space(made: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    how, normalizer = made["pre_tokenizer"] or {}, made["normalizer"] or {}
    if how.get("type") == "Metaspace":
        return bool(how["prepend_scheme"] != "never")
    steps = normalizer.get("normalizers", [normalizer])
    if how or any(step.get("type") not in ("Prepend", "Replace") for step in steps):
        raise ValueError(
            "its tokenizer prepares text in another way than Llama 2's: it cannot be written as "
            "GGUF"
        )
    return any(step == {"type": "Prepend", "prepend": SPACE} for step in steps)


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """A score for each token, such that the merge that comes first has the highest."""
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", ""), rank)
    return [-float(first.get(token, len(merges))) for token in tokens]


def _add_special(writer: Any, model: Any, tokenizer: Any) -> None:
    """Which tokens begin, end and fill a text, and which of them a text is given."""
    last, *others = [*ends(model, tokenizer), None]
    for name, token in {
        "bos": tokenizer.bos_token_id,
        "eos": last,
        "eot": others[0] if others else None,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
    }.items():
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    given = tokenizer("a")["input_ids"]
    begins, closes = [tokenizer.bos_token_id], [last]
    for before, after in (([], []), (begins, []), ([], closes), (begins, closes)):
        if given == [*before, *plain, *after]:
            writer.add_add_bos_token(bool(before))
            writer.add_add_eos_token(bool(after))
            return
    raise ValueError("its tokenizer puts tokens around a text other than those that begin and end")
