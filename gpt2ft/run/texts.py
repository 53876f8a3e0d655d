"""What a run trains on and is evaluated on: a corpus on this machine, or one that is streamed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..config import TrainConfig
from ..data import cache
from ..data.batches import Blocks, Rows
from ..data.chats import MESSAGES
from ..data.corpus import Corpus, as_texts, joined, load_corpus
from ..data.file_list import weighted
from ..data.mixture import Mixture
from ..data.order import IN_TURN, ORDER
from ..data.reader import Reader
from ..data.shards import all_documents, list_shards
from ..data.stream import Stream, read_notes
from ..data.token_store import tokenize
from ..parallel import processes
from .recipe import SETTINGS_FILE, load_recipe

NOTES = "shards.json"


@dataclass(frozen=True)
class Cutter:
    """Makes samples from documents, in the same way for those to train on and those held out."""

    config: TrainConfig
    tokenizer: Any
    vocab_size: int
    keep_apart: bool

    def samples(self, documents: Dataset, *, limit: int | None) -> tuple[Blocks | Rows, str]:
        """Documents, tokenized and cut, and a digest of that. Raises `ValueError`."""
        config = self.config
        assert config.block_size
        separator = config.row_separator == "eos"
        store = tokenize(
            documents,
            self.tokenizer,
            separator=separator,
            one_text=config.packing and not separator,
            num_proc=config.preprocessing_num_workers,
            train_on=config.train_on,
        )
        store.check_vocabulary(self.vocab_size)
        samples: Blocks | Rows
        if config.packing:
            samples = Blocks(store, config.block_size, limit=limit, keep_apart=self.keep_apart)
        else:
            samples = Rows(store, config.block_size, limit=limit)
        return samples, f"{store.digest()} {len(samples)}"

    def protocol(self, *, chats: bool) -> str:
        """How texts are cut, in words; `chats`: they are conversations."""
        config = self.config
        answers = ", answers alone" if chats and config.train_on == "answer" else ""
        if not config.packing:
            return f"rows cut to {config.block_size} tokens{answers}"
        apart = ", documents apart" if self.keep_apart and config.row_separator == "eos" else ""
        return f"blocked, {config.block_size} tokens{apart}{answers}"


class Whole:
    """A corpus that lies on this machine, or several with a weight each."""

    order = ORDER

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._sources = weighted(config.train_file)
        if self._sources and config.max_train_samples:
            raise ValueError(
                "--max_train_samples is for one corpus, not for several with weights: --max_steps "
                "makes the run shorter"
            )
        load = functools.partial(
            load_corpus,
            contiguous=config.row_separator == "none",
            deduplicate=config.deduplicate,
            seed=config.seed,
            **_reading(config),
        )
        source = _source(config)
        if not self._sources:
            self._corpora = [load(dataset_split=config.dataset_split, **source)]
            return
        held_out = source.pop("validation_file")
        if held_out:
            source["validation_split_percentage"] = 0
        self._corpora = [load(**{**source, "train_file": name}) for name, _ in self._sources]
        if held_out:
            there = load(**{**source, "train_file": held_out, "deduplicate": False})
            first = self._corpora[0]
            self._corpora[0] = dataclasses.replace(
                first, validation=there.train, notes=[*first.notes, *there.notes]
            )

    @property
    def notes(self) -> Sequence[str]:
        """What is to be said of the text: what was left out."""
        return [note for corpus in self._corpora for note in corpus.notes]

    def words(self) -> Corpus:
        """All documents as texts."""
        train = [as_texts(corpus.train) for corpus in self._corpora]
        validations = (corpus.validation for corpus in self._corpora)
        held_out = [as_texts(part) for part in validations if part is not None]
        files = [name for corpus in self._corpora for name in corpus.files]
        return Corpus(joined(train), joined(held_out) if held_out else None, files=files)

    def documents(self) -> Dataset:
        """Those to train on; as texts, if only some corpora are conversations."""
        parts = [corpus.train for corpus in self._corpora]
        if len({MESSAGES in part.column_names for part in parts}) > 1:
            parts = [as_texts(part) for part in parts]
        return joined(parts)

    def samples(self, cut: Cutter) -> tuple[Blocks | Rows | Mixture, str]:
        """Samples to train on, and a digest of them."""
        if not self._sources:
            return cut.samples(self._corpora[0].train, limit=self._config.max_train_samples)
        made = [cut.samples(corpus.train, limit=None) for corpus in self._corpora]
        weights = [weight for _, weight in self._sources]
        digest = hashlib.sha256(repr([weights, [digest for _, digest in made]]).encode())
        return Mixture([samples for samples, _ in made], weights), digest.hexdigest()

    def held_out_documents(self) -> Dataset | None:
        """Those to evaluate on, None if there are none."""
        parts = [corpus.validation for corpus in self._corpora if corpus.validation is not None]
        return joined(parts) if parts else None


class Streamed:
    """A corpus whose files are read in turn, see `data.stream`."""

    order = IN_TURN
    notes: Sequence[str] = ()

    def __init__(self, config: TrainConfig, checkpoint: Path | None) -> None:
        self._config, self._checkpoint = config, checkpoint
        self._are_chats: bool | None = None
        if weighted(config.train_file):
            raise ValueError("--streaming reads one corpus, leave out the weights of --train_file")
        self._shards, self._held_out = list_shards(
            Reader(**_reading(config)), dataset_split=config.dataset_split, **_source(config)
        )
        # A folder of this run alone: it deletes what it has read.
        names = [os.path.abspath(config.output_dir), *(shard.name for shard in self._shards)]
        self._folder = Path(cache.entry("stream", names, names[1:]))

    def documents(self) -> Dataset:
        """Those of the first file: enough for a tokenizer."""
        return self._shards[0].load(self._folder / "first")

    def samples(self, cut: Cutter) -> tuple[Stream, str]:
        """Samples to train on, and a digest of the list of files."""
        config = self._config
        output_dir = Path(config.output_dir)
        earlier = self._checkpoint.parent if self._checkpoint else None
        writes = processes.rank() == 0 and not config.dry_run
        stream = Stream(
            self._shards,
            lambda documents: cut.samples(self._of_one_kind(documents), limit=None),
            seed=config.seed,
            at_once=config.files_at_once,
            folder=self._folder / "shards",
            known=read_notes(earlier / NOTES) if earlier else None,
            notes=output_dir / NOTES if writes else None,
        )
        if not earlier:
            stream[0]  # what is wrong with files or tokens is said before anything is written
        listed = [_stamp(shard.name) for shard in self._shards]
        return stream, hashlib.sha256(repr(listed).encode()).hexdigest()

    def _of_one_kind(self, documents: Dataset) -> Dataset:
        """The documents of a file; raises `ValueError` if others were texts, and not they."""
        are_chats = MESSAGES in documents.column_names
        if self._are_chats not in (None, are_chats):
            raise ValueError(
                "the files hold both texts and conversations, name those of one kind to --streaming"
            )
        self._are_chats = are_chats
        return documents

    def held_out_documents(self) -> Dataset | None:
        """Those to evaluate on, None if there are none."""
        return all_documents(self._held_out, self._folder / "held-out")


def open_texts(config: TrainConfig, checkpoint: Path | None) -> Whole | Streamed:
    """The corpus that a configuration names; a run that is resumed has read a part of it before."""
    return Streamed(config, checkpoint) if config.streaming else Whole(config)


def corpus_of_run(folder: Path) -> tuple[TrainConfig, Corpus]:
    """The settings of the run in an output folder, and its documents as texts, read again.

    Raises `ValueError` for a run that streamed them, and as `load_corpus` does.
    """
    config = TrainConfig(**load_recipe(str(folder / SETTINGS_FILE)))
    if config.streaming:
        raise ValueError(
            f"the run in {folder} streamed its training text, which is not kept: name it with "
            "--train_file (or --corpus, to generate)"
        )
    return config, Whole(config).words()


def _source(config: TrainConfig) -> dict[str, Any]:
    return {
        "dataset_name": config.dataset_name,
        "dataset_config_name": config.dataset_config_name,
        "train_file": config.train_file,
        "validation_file": config.validation_file,
        "validation_split_percentage": config.validation_split_percentage,
    }


def _reading(config: TrainConfig) -> dict[str, Any]:
    """How files are read, see `Reader`."""
    names = ("text_column", "prompt_column", "completion_column", "encoding")
    return {"lines": not config.packing, **{name: getattr(config, name) for name in names}}


def _stamp(name: str) -> str:
    """What a file is recognized by, also on another machine: a URL, or its last name and size."""
    return name if "://" in name else f"{os.path.basename(name)} {os.path.getsize(name)}"
