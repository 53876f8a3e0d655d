"""How many bytes of text each token stands for: what bits per byte are counted in."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..data.token_index import IntArray

BYTE = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's spelling of a byte that has no token
SPACE = "▁"


def token_bytes(tokenizer: Any) -> IntArray:
    """Bytes of UTF-8 that each token id adds to a text, `(V,)`; 0 for special tokens.

    Byte-level tokenizers such as GPT-2's spell a token with one character for each byte;
    SentencePiece spells a space `▁`, and a byte `<0x0A>`.
    """
    spellings: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    byte_level = _is_byte_level(tokenizer)
    sizes = np.zeros(max(spellings.values(), default=-1) + 1, np.int64)
    added = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    for spelling, number in spellings.items():
        if number in special:
            continue
        if spelling in added:  # spelled as it stands in the text
            sizes[number] = len(spelling.encode())
        elif byte_level:
            sizes[number] = len(spelling)
        elif BYTE.fullmatch(spelling):
            sizes[number] = 1
        else:
            sizes[number] = len(spelling.replace(SPACE, " ").encode())
    return sizes


def _is_byte_level(tokenizer: Any) -> bool:
    """Whether a character of a token's spelling stands for a byte."""
    (spelling,) = tokenizer.convert_ids_to_tokens(
        tokenizer(" ", add_special_tokens=False)["input_ids"][:1]
    ) or [""]
    return bool(spelling and spelling[0] == "Ġ")
