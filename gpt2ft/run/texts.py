"""What a run trains on and is evaluated on: a corpus on this machine, or one that is streamed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from ..config import TrainConfig
from ..data.batches import Blocks, Rows
from ..data.corpus import Corpus, load_corpus
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
        )
        store.check_vocabulary(self.vocab_size)
        samples: Blocks | Rows
        if config.packing:
            samples = Blocks(store, config.block_size, limit=limit, keep_apart=self.keep_apart)
        else:
            samples = Rows(store, config.block_size, limit=limit)
        return samples, f"{store.digest()} {len(samples)}"

    def protocol(self) -> str:
        """How texts are cut, in words."""
        config = self.config
        if not config.packing:
            return f"rows cut to {config.block_size} tokens"
        apart = ", documents apart" if self.keep_apart and config.row_separator == "eos" else ""
        return f"blocked, {config.block_size} tokens{apart}"


class Whole:
    """A corpus that lies on this machine."""

    order = ORDER

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.corpus = load_corpus(
            dataset_split=config.dataset_split,
            contiguous=config.row_separator == "none",
            deduplicate=config.deduplicate,
            seed=config.seed,
            **_source(config),
            **_reading(config),
        )

    def documents(self) -> Dataset:
        """Those to train on."""
        return self.corpus.train

    def samples(self, cut: Cutter) -> tuple[Blocks | Rows, str]:
        """Samples to train on, and a digest of them."""
        return cut.samples(self.corpus.train, limit=self._config.max_train_samples)

    def held_out_documents(self) -> Dataset | None:
        """Those to evaluate on, None if there are none."""
        return self.corpus.validation


class Streamed:
    """A corpus whose files are read in turn, see `data.stream`."""

    order = IN_TURN

    def __init__(self, config: TrainConfig, checkpoint: Path | None) -> None:
        self._config, self._checkpoint = config, checkpoint
        self._shards, self._held_out = list_shards(
            Reader(**_reading(config)), dataset_split=config.dataset_split, **_source(config)
        )
        # A folder of this run alone: it deletes what it has read.
        names = [os.path.abspath(config.output_dir), *(shard.name for shard in self._shards)]
        key = hashlib.sha256(repr(names).encode()).hexdigest()[:16]
        self._folder = Path(datasets.config.HF_DATASETS_CACHE) / f"gpt2ft-stream-{key}"

    def documents(self) -> Dataset:
        """Those of the first file: enough for a tokenizer."""
        return self._shards[0].load(self._folder / "first")

    def samples(self, cut: Cutter) -> tuple[Stream, str]:
        """Samples to train on, and a digest of the list of files."""
        config = self._config
        output_dir = Path(config.output_dir)
        earlier = self._checkpoint.parent if self._checkpoint else None
        stream = Stream(
            self._shards,
            lambda documents: cut.samples(documents, limit=None),
            seed=config.seed,
            at_once=config.files_at_once,
            folder=self._folder / "shards",
            known=read_notes(earlier / NOTES) if earlier else None,
            notes=output_dir / NOTES if processes.rank() == 0 else None,
        )
        if not earlier:
            stream[0]  # what is wrong with files or tokens is said before anything is written
        listed = [_stamp(shard.name) for shard in self._shards]
        return stream, hashlib.sha256(repr(listed).encode()).hexdigest()

    def held_out_documents(self) -> Dataset | None:
        """Those to evaluate on, None if there are none."""
        return all_documents(self._held_out, self._folder / "held-out")


def open_texts(config: TrainConfig, checkpoint: Path | None) -> Whole | Streamed:
    """The corpus that a configuration names; a run that is resumed has read a part of it before."""
    return Streamed(config, checkpoint) if config.streaming else Whole(config)


def corpus_of_run(folder: Path) -> tuple[TrainConfig, Corpus]:
    """The settings of the run in an output folder, and its documents, read again.

    Raises `ValueError` for a run that streamed them, and as `load_corpus` does.
    """
    config = TrainConfig(**load_recipe(str(folder / SETTINGS_FILE)))
    if config.streaming:
        raise ValueError(
            f"the run in {folder} streamed its training text, which is not kept: name it with "
            "--train_file (or --corpus, to generate)"
        )
    return config, Whole(config).corpus


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
