"""Documents to a token store on disk; blocks or rows out of it; the order of an epoch."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from datasets import Dataset, Features, List, Value

IntArray = npt.NDArray[np.int64]
Sample = dict[str, IntArray]

FEATURES = Features({"input_ids": List(Value("int32")), "first": Value("bool")})
TOKENIZED_AT_ONCE = 128


class TokenStore:
    """All tokens of a corpus, one after another, memory-mapped from the cache of `datasets`.

    `offsets (rows + 1,)` says where each row (a document, or a piece of one) lies in the stream,
    `document_starts (documents,)` where positions begin again: a document's first token, or the
    end-of-text token before it (-1 for the first document); empty where rows are one text.
    `whole_documents` is false if a document came in pieces. Memory in use does not grow with the
    tokens.
    """

    def __init__(self, tokenized: Dataset, *, has_prefix: bool, end: int | None) -> None:
        chunks = tokenized.data.column("input_ids").chunks
        self._chunks = [chunk.flatten().to_numpy(zero_copy_only=True) for chunk in chunks]
        self._chunk_offsets = _offsets([len(chunk) for chunk in self._chunks])
        lengths = [chunk.value_lengths().to_numpy(zero_copy_only=False) for chunk in chunks]
        self.offsets = _offsets(np.concatenate(lengths) if lengths else [])
        first = tokenized.data.column("first").to_numpy()
        self.whole_documents = bool(first.all())
        starts = self.offsets[:-1][first & (np.diff(self.offsets) > 0)]
        # The end-of-text token before a document stands at its start, as GPT-2 saw it, and predicts
        # its first token; a tokenizer with a beginning-of-text token of its own needs no other.
        self.document_starts = starts if has_prefix else starts - 1
        if end is None:
            self.document_starts = starts[:0]
        elif not has_prefix:
            # Also where a text has the token written in it, as files for GPT-2 often do.
            self.document_starts = np.concatenate([self.document_starts[:1], self._places(end)])

    @property
    def n_tokens(self) -> int:
        return int(self.offsets[-1])

    def largest(self) -> int:
        """The largest token id, -1 where there is none."""
        return max((int(chunk.max()) for chunk in self._chunks if len(chunk)), default=-1)

    def _places(self, token: int) -> IntArray:
        """Where a token stands in the stream, but for its end: nothing begins there."""
        pairs = zip(self._chunk_offsets[:-1], self._chunks, strict=True)
        found = [base + np.flatnonzero(chunk == token) for base, chunk in pairs]
        places = np.concatenate([np.empty(0, np.int64), *found]).astype(np.int64)
        return places[places < self.n_tokens - 1]

    def digest(self) -> str:
        """Hash of the tokens and of where documents begin: what the data is, wherever it lies."""
        state = xxhash.xxh3_128()
        for array in (*self._chunks, self.offsets, self.document_starts):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def tokens(self, start: int, stop: int) -> IntArray:
        """Tokens `start` to `stop` of the stream, `(stop - start,)`."""
        first = int(np.searchsorted(self._chunk_offsets, start, side="right")) - 1
        parts = []
        while start < stop:
            base, end = self._chunk_offsets[first : first + 2]
            parts.append(self._chunks[first][start - base : min(stop, end) - base])
            start, first = min(stop, int(end)), first + 1
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def _offsets(lengths: Any) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def tokenize(
    documents: Dataset,
    tokenizer: Any,
    *,
    separator: bool = True,
    one_text: bool = False,
    num_proc: int | None = None,
) -> TokenStore:
    """Tokenize a data set with a column `text`, in batches, through the cache of `datasets`.

    Each document begins with what the tokenizer puts before a text (a beginning-of-text token, if
    it has one), and with `separator` ends in an end-of-text token. Documents of white space alone
    have no tokens. With `one_text` the documents are lines of one text: nothing is put before them,
    and blank ones count. Raises `ValueError` if the tokenizer has no end-of-text token.
    """
    end = tokenizer.eos_token_id if separator else None
    if separator and end is None:
        raise ValueError("the tokenizer has no end-of-text token, use --row_separator none")
    options = {
        "prefix": [] if one_text else _prefix(tokenizer),
        "suffix": [] if end is None else [end],
        "keep_blank": one_text,
        "strip_pieces": _adds_space(tokenizer),
    }
    # A key of our own: that of a fast tokenizer's pickle changes once it has been used
    # (datasets#3847), and the cache would miss.
    code = inspect.getsource(_tokenize_batch)
    key = json.dumps([documents._fingerprint, _identity(tokenizer), options, code])
    tokenized = documents.map(
        _tokenize_batch,
        fn_kwargs={"tokenizer": tokenizer, **options},
        batched=True,
        batch_size=TOKENIZED_AT_ONCE,
        remove_columns=documents.column_names,
        features=FEATURES,
        num_proc=num_proc,
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        desc="Tokenizing",
    )
    return TokenStore(tokenized, has_prefix=bool(options["prefix"]), end=end)


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
    rows: list[list[int]] = []
    for text, row, begins, ends in zip(texts, ids, first, last, strict=True):
        if begins and ends and not keep_blank and not text.strip():
            rows.append([])
        else:
            rows.append((prefix if begins else []) + row + (suffix if ends else []))
    return {"input_ids": rows, "first": first}


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


def _identity(tokenizer: Any) -> str:
    """What decides which ids a text gets."""
    if getattr(tokenizer, "is_fast", False):
        return str(tokenizer.backend_tokenizer.to_str())
    return json.dumps(
        [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs],
        sort_keys=True,
        default=str,
    )


class Blocks:
    """The stream of tokens in blocks of `block_size`, none left out, the last one shorter.

    A sample holds `input_ids (T,)` and, where a document starts within it, `position_ids (T,)` that
    begin again at 0 there: attention then stays within documents. `keep_apart=False` leaves them
    out, for models that do not go by them.
    """

    def __init__(
        self,
        store: TokenStore,
        block_size: int,
        *,
        limit: int | None = None,
        keep_apart: bool = True,
    ) -> None:
        if block_size < 3:
            raise ValueError(f"--block_size {block_size} is too short, at least 3 to pack")
        if store.n_tokens < 2:
            raise ValueError(f"the text has {store.n_tokens} tokens, give one of at least 2")
        self._store = store
        self._begins = store.document_starts if keep_apart else store.document_starts[:0]
        # A last block of one token would have nothing to predict: it takes one more from the block
        # before it.
        starts = np.arange(0, store.n_tokens, block_size, dtype=np.int64)
        self._bounds = np.append(np.minimum(starts, store.n_tokens - 2), store.n_tokens)
        self._bounds = self._bounds[: min(limit or len(starts), len(starts)) + 1]

    @property
    def lengths(self) -> IntArray:
        return np.diff(self._bounds)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> Sample:
        start, stop = int(self._bounds[index]), int(self._bounds[index + 1])
        sample = {"input_ids": self._store.tokens(start, stop)}
        low, high = np.searchsorted(self._begins, [start, stop])
        inside = self._begins[low:high] - start
        if len(inside) and inside[-1] > 0:
            positions = np.arange(stop - start)
            origin = np.zeros(stop - start, dtype=np.int64)
            origin[inside] = inside
            sample["position_ids"] = positions - np.maximum.accumulate(origin)
        return sample


class Rows:
    """One document or line a sample, cut to `block_size`; those under two tokens are left out."""

    def __init__(self, store: TokenStore, block_size: int, *, limit: int | None = None) -> None:
        if not store.whole_documents:
            raise ValueError("the corpus has documents in pieces, load it with lines=True")
        lengths = np.minimum(np.diff(store.offsets), block_size)
        self._rows = np.flatnonzero(lengths >= 2)[:limit]
        self.lengths = lengths[self._rows]
        self._store = store
        if not len(self._rows):
            raise ValueError("no row of the text has two tokens, give longer rows")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        start = int(self._store.offsets[self._rows[index]])
        return {"input_ids": self._store.tokens(start, start + int(self.lengths[index]))}


def epoch_order(n_samples: int, *, seed: int, epoch: int) -> IntArray:
    """Order of the samples in an epoch `(n_samples,)`: a function of seed and epoch, without
    state."""
    return np.random.default_rng([seed, epoch]).permutation(n_samples)


class Batches:
    """Micro-batches of samples, as a function of epoch and index.

    `data[epoch, index]` collates `batch_size` samples in the order of that epoch. Without a seed
    every epoch goes from the longest sample to the shortest, which pads least: for evaluation.
    """

    def __init__(
        self,
        samples: Blocks | Rows,
        collate: Callable[[list[Sample]], dict[str, torch.Tensor]],
        *,
        batch_size: int,
        seed: int | None = None,
    ) -> None:
        self.samples = samples
        self._collate = collate
        self._batch_size = batch_size
        self._seed = seed
        self._order: tuple[int, IntArray] | None = None

    def __len__(self) -> int:
        return -(-len(self.samples) // self._batch_size)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = position
        return self._collate([self.samples[int(i)] for i in self.sample_numbers(epoch, index)])

    def sample_numbers(self, epoch: int, index: int) -> IntArray:
        """Which samples micro-batch `index` of the epoch holds, `(B,)`."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._epoch(epoch))
        return self._order[1][index * self._batch_size : (index + 1) * self._batch_size]

    def _epoch(self, epoch: int) -> IntArray:
        if self._seed is None:
            return np.argsort(-self.samples.lengths, kind="stable")
        return epoch_order(len(self.samples), seed=self._seed, epoch=epoch)
