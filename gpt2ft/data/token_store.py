"""Documents to a token store on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Features, List, Value, is_caching_enabled

from . import cache
from .chat_template import conversation_ids, give_template, stop_tokens
from .chats import MESSAGES
from .token_index import IntArray, index_of

FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "first": Value("bool"),
        "largest": Value("int32"),
        "ends": List(Value("int32")),
        "hash": Value("int64"),
    }
)
TOKENIZED_AT_ONCE = 128
FINGERPRINT = "_fingerprint"  # of a data set; datasets has no public name for it


class TokenStore:
    """All tokens of a corpus, one after another, memory-mapped from the cache of `datasets`.

    `offsets (rows + 1,)` says where each row (a document, or a piece of one) lies in the stream,
    `document_starts (documents,)` where positions begin again: a document's first token, or the
    end-of-text token before it (-1 for the first document); empty where rows are one text.
    `long_rows` are the numbers of the rows of at least two tokens. `whole_documents` is false if a
    document came in pieces. `largest` is the largest token id, -1 where there is none, `duplicates`
    the number of documents that equal an earlier one; `has_context`: there are tokens that are not
    to be learned. Memory in use does not grow with the tokens: what is not on disk is a number for
    each chunk of the file.
    """

    def __init__(
        self, tokenized: Dataset, *, has_prefix: bool, apart: bool, has_context: bool = False
    ) -> None:
        rows = tokenized.data.column("input_ids")
        self._chunks = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in rows.chunks]
        sizes = [len(chunk) for chunk in self._chunks]
        self._chunk_offsets = np.cumsum([0, *sizes], dtype=np.int64)
        index = index_of(tokenized, has_prefix=has_prefix, apart=apart)
        self.offsets, self.document_starts = index.offsets, index.document_starts
        self.long_rows, self.largest = index.long_rows, index.largest
        self.whole_documents, self._digest = index.whole_documents, index.digest
        self.duplicates, self.has_context = index.duplicates, has_context

    @property
    def n_tokens(self) -> int:
        return int(self.offsets[-1])

    def check_vocabulary(self, size: int) -> None:
        """Raise `ValueError` for a token id that a model with so many embeddings does not have.

        There CUDA would fail without saying why.
        """
        if self.largest >= size:
            raise ValueError(
                f"the text has token id {self.largest}, but the model's embedding has {size} rows: "
                "use the model's own tokenizer"
            )

    def digest(self) -> str:
        """Hash of the tokens and of where documents begin: what the data is, wherever it lies."""
        return self._digest

    def tokens(self, start: int, stop: int) -> IntArray:
        """Tokens `start` to `stop` of the stream, `(stop - start,)`."""
        stored = self.stored(start, stop)
        return np.where(stored < 0, ~stored, stored)

    def stored(self, start: int, stop: int) -> IntArray:
        """The same as they are stored: `~id`, which is negative, for what is not to be learned."""
        first = int(np.searchsorted(self._chunk_offsets, start, side="right")) - 1
        parts = []
        while start < stop:
            base, end = self._chunk_offsets[first : first + 2]
            parts.append(self._chunks[first][start - base : min(stop, end) - base])
            start, first = min(stop, int(end)), first + 1
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def tokenize(
    documents: Dataset | Sequence[str],
    tokenizer: Any,
    *,
    separator: bool = True,
    one_text: bool = False,
    num_proc: int | None = None,
    train_on: str = "answer",
) -> TokenStore:
    """Tokenize a data set with a column `text`, in batches, through the cache of `datasets`.

    A list of texts is taken too. Where the column is `messages`, see `Corpus`, each row is a
    conversation, written by the tokenizer's chat template; of it the answers are learned, or with
    `train_on="prompt_and_answer"` all.
    Each document begins with what the tokenizer puts before a text (a beginning-of-text token, if
    it has one), and with `separator` ends in an end-of-text token. Documents of white space alone
    have no tokens. With `one_text` the documents are lines of one text: nothing is put before them,
    and blank ones count. Raises `ValueError` if there are no documents, or the tokenizer has no
    end-of-text token.
    """
    if not isinstance(documents, Dataset):
        documents = Dataset.from_dict({"text": list(documents)})
    if len(documents) == 0:
        raise ValueError("there are no documents to tokenize, give at least one")
    if MESSAGES in documents.column_names:
        return _tokenize_chats(documents, tokenizer, separator, train_on, num_proc)
    end = tokenizer.eos_token_id if separator else None
    if separator and end is None:
        raise ValueError("the tokenizer has no end-of-text token, use --row_separator none")
    options = {
        "prefix": [] if one_text else _prefix(tokenizer),
        "suffix": [] if end is None else [end],
        "keep_blank": one_text,
        "strip_pieces": _adds_space(tokenizer),
    }
    tokenized = _mapped(documents, _tokenize_batch, tokenizer, options, num_proc)
    return TokenStore(tokenized, has_prefix=bool(options["prefix"]), apart=end is not None)


def _tokenize_chats(
    documents: Dataset, tokenizer: Any, separator: bool, train_on: str, num_proc: int | None
) -> TokenStore:
    if not separator:
        raise ValueError("--row_separator none is for the lines of one text, not for conversations")
    give_template(tokenizer)
    options = {"answers_only": train_on == "answer"}
    written_by = [tokenizer.chat_template, tokenizer.special_tokens_map]
    tokenized = _mapped(
        documents, _tokenize_chat_batch, tokenizer, options, num_proc, written_by=written_by
    )
    # A conversation begins at its own first token, as a text after a beginning-of-text token.
    return TokenStore(tokenized, has_prefix=True, apart=True, has_context=True)


def _mapped(
    documents: Dataset,
    to_rows: Callable[..., dict[str, list[Any]]],
    tokenizer: Any,
    options: Mapping[str, Any],
    num_proc: int | None,
    written_by: Any = None,
) -> Dataset:
    """The rows of a token store for all documents, from the cache if they were made before.

    `written_by` is what the rows depend on besides tokenizer and options.
    """
    made_with = {**options, "written_by": written_by} if written_by else options
    fingerprint = _fingerprint(documents, tokenizer, made_with)
    return documents.map(
        to_rows,
        fn_kwargs={"tokenizer": tokenizer, **options},
        batched=True,
        batch_size=TOKENIZED_AT_ONCE,
        remove_columns=documents.column_names,
        features=FEATURES,
        num_proc=num_proc,
        new_fingerprint=fingerprint,
        cache_file_name=_cache_file(documents, fingerprint),
        desc="Tokenizing",
    )


def _tokenize_chat_batch(
    batch: Mapping[str, Sequence[str]], *, tokenizer: Any, answers_only: bool
) -> dict[str, list[Any]]:
    stops = stop_tokens(tokenizer)
    rows = [
        described(ids, True, None)
        for text in batch[MESSAGES]
        for ids in conversation_ids(tokenizer, text, answers_only=answers_only, stops=stops)
    ]
    return {name: [row[name] for row in rows] for name in FEATURES}


def _tokenize_batch(
    batch: Mapping[str, Sequence[Any]],
    *,
    tokenizer: Any,
    prefix: list[int],
    suffix: list[int],
    keep_blank: bool,
    strip_pieces: bool,
) -> dict[str, list[Any]]:
    texts = [text or "" for text in batch["text"]]  # a record may hold null
    first = list(batch.get("first", [True] * len(texts)))
    last = list(batch.get("last", [True] * len(texts)))
    if strip_pieces:
        pairs = zip(texts, first, strict=True)
        texts = [text if begins else text.removeprefix(" ") for text, begins in pairs]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    rows = []
    for text, row, begins, ends in zip(texts, ids, first, last, strict=True):
        if begins and ends and not keep_blank and not text.strip():
            row = []
        else:
            row = (prefix if begins else []) + row + (suffix if ends else [])
        rows.append(described(row, begins, suffix[0] if suffix else None))
    return {name: [row[name] for row in rows] for name in FEATURES}


def described(row: Sequence[int] | IntArray, first: bool, end: int | None) -> dict[str, Any]:
    """A row of a token store, with what would otherwise need a pass over all its tokens."""
    ids = np.array(row, dtype=np.int32)
    return {
        "input_ids": ids,
        "first": first,
        "largest": int(np.maximum(ids, ~ids).max(initial=-1)),
        "ends": np.flatnonzero(ids == (-1 if end is None else end)),
        "hash": xxhash.xxh3_64_intdigest(ids.data) - 2**63,  # signed, as Arrow has it by default
    }


def _bare(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _prefix(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    bare, dressed = _bare(tokenizer, "a"), list(tokenizer("a")["input_ids"])
    starts = (i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare)
    return dressed[: next(starts, 0)]


def _adds_space(tokenizer: Any) -> bool:
    """Whether it puts a space before every text, as SentencePiece does.

    A piece that begins with the space it was cut before would then have two.
    """
    return _bare(tokenizer, "a b c d") != _bare(tokenizer, "a b") + _bare(tokenizer, " c d")


def _fingerprint(documents: Dataset, tokenizer: Any, options: Mapping[str, Any]) -> str | None:
    """The key under which the cache of `datasets` keeps the tokens; None: it makes its own.

    Its own would be right, but changes once a fast tokenizer has been used (datasets#3847): the
    cache would miss. Ours needs the data set's fingerprint, which has no public name.
    """
    fingerprint = getattr(documents, FINGERPRINT, None)
    if fingerprint is None or not getattr(tokenizer, "is_fast", False):
        return None
    content = [fingerprint, tokenizer.backend_tokenizer.to_str(), options]
    key = json.dumps([cache.TOKENS_VERSION, *content])
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _cache_file(documents: Dataset, fingerprint: str | None) -> str | None:
    """Where the tokens are kept; None: where `datasets` does, beside the documents, or in memory.

    Beside documents that are not in our cache they could not be told from the files of others.
    """
    files = [file["filename"] for file in documents.cache_files]
    if fingerprint is None or not files or cache.holds(files[0]) or not is_caching_enabled():
        return None
    source = Path(files[0]).parent
    folder = cache.entry("tokens", (str(source), fingerprint), [str(source)])
    return str(Path(folder) / "tokens.arrow")
