"""From a configuration to all that a run is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.divided import check_names
from ..checkpoint.folders import recorded_run
from ..config import TrainConfig
from ..data.batches import Batches
from ..data.collate import CausalLMCollator
from ..data.corpus import texts_of
from ..data.mixture import Mixture
from ..kernels.accelerate import accelerate, compile_blocks
from ..loop import TrainState
from ..models import adapters, loading, probe
from ..optim import build_optimizer, lr_at
from ..parallel import processes
from ..parallel.sharding import shard
from ..precision import Precision, resolve_device, resolve_precision
from . import trained_parts
from .chats import prepare_for_chats
from .recipe import settings_of
from .texts import Cutter, Streamed, Whole, open_texts

MIN_VOCAB_SIZE = 257  # the least a byte-level tokenizer has


@dataclass
class Run:
    """All that a run is made of."""

    config: TrainConfig
    """With precision, block_size, learning_rate, threads, micro_batches_per_step decided."""
    state: TrainState
    tokenizer: Any
    data: Batches
    held_out: Batches | None
    max_steps: int
    digests: tuple[str, str]
    """Of the training tokens and how many samples they make; of those held out."""
    cut: Cutter
    """How its texts are cut, and whether in packed blocks no document is context for another."""
    has_chats: bool
    """Whether conversations are learned, alone or beside texts."""
    notes: list[str]
    """What is to be said of the texts, besides how many they are."""
    base: str | None = None
    """Fingerprint of the model under a LoRA adapter, whose weights no checkpoint holds."""
    saved_step: int = -1
    """Step of the newest checkpoint this process saved or loaded."""

    def record(self) -> dict[str, Any]:
        """What a checkpoint records: to refuse changed settings or data, and to rebuild the run."""
        return {
            "config": settings_of(self.config),
            "data": self.digests[0],
            "steps": self.max_steps,
            "keep_apart": self.cut.keep_apart,
            "order": self.data.order,
            "chats": self.has_chats,
            **({"base": self.base} if self.base else {}),
        }

    def divide_micro_batches(self, size: int) -> None:
        """Go on in micro-batches of `size` samples, a divisor of what they have: each step has as
        many more of them, and the samples that it had."""
        config, n_before = self.config, len(self.data)
        assert config.micro_batches_per_step
        parts = config.per_device_train_batch_size // size
        self.data = self.data.of_size(size)
        epoch, index = divmod(self.state.batches, n_before)
        self.state.batches = epoch * len(self.data) + index * parts
        self.config = dataclasses.replace(
            config,
            per_device_train_batch_size=size,
            micro_batches_per_step=config.micro_batches_per_step * parts,
        )

    def finished(self) -> TrainState:
        """The state whose model is put into the folder at the end: with merge_lora, merged."""
        if not self.config.merge_lora:
            return self.state
        return dataclasses.replace(self.state, model=adapters.merged(self.state.model))

    def loop_settings(self) -> dict[str, Any]:
        """How `loop.train` is to train it."""
        config = self.config
        assert config.learning_rate is not None
        peak = config.learning_rate
        warmup_steps = config.warmup_steps or math.ceil(config.warmup_ratio * self.max_steps)

        def learning_rate(step: int) -> float:
            return lr_at(
                step,
                max_steps=self.max_steps,
                learning_rate=peak,
                warmup_steps=warmup_steps,
                schedule=config.lr_scheduler_type,
            )

        return {
            "micro_batches_per_step": config.micro_batches_per_step,
            "fixed_sum_order": config.fixed_sum_order,
            "learning_rate": learning_rate,
            "max_grad_norm": config.max_grad_norm,
        }


def build(config: TrainConfig, checkpoint: Path | None = None) -> Run:
    """Corpus, tokenizer, model, optimizer and data of a run, at step 0.

    With a checkpoint, tokenizer and weights are read from there: the original may be gone, unless
    it is the model under a LoRA adapter.
    """
    if config.lora_r:
        adapters.check_peft("--lora_r")
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    with processes.first_on_its_machine():
        texts = open_texts(config, checkpoint)
        tokenizer, model = _tokenizer_and_model(config, texts.documents, checkpoint)
    base = adapters.fingerprint(model) if config.lora_r else None
    trained_parts.refuse_another_base(config, base, checkpoint)
    config = trained_parts.choose_what_is_trained(config, model)
    config = _decided(config, model, tokenizer, precision, checkpoint)
    if checkpoint:  # probed with its first weights; trained ones may give logits too close to tell
        keep_apart = bool(recorded_run(checkpoint).get("keep_apart"))
    else:
        keep_apart = config.packing and probe.keeps_documents_apart(model)
    _prepare_model(config, model, device)
    cut = Cutter(config, tokenizer, model.get_input_embeddings().weight.shape[0], keep_apart)
    data, held_out, digests = _batches(config, texts, cut, checkpoint)
    # Of a stream that goes on, the first samples are not at hand.
    recorded = recorded_run(checkpoint).get("chats", False) if checkpoint else None
    has_chats = _are_chats(data.samples) if recorded is None else recorded
    chat_notes = prepare_for_chats(model, tokenizer) if has_chats else []
    return Run(
        config,
        first_state(config, model, precision),
        tokenizer,
        data,
        held_out,
        _max_steps(config, len(data)),
        digests,
        cut,
        has_chats,
        [*trained_parts.notes_on_weights(config, checkpoint), *texts.notes, *chat_notes],
        base,
    )


def _decided(
    config: TrainConfig, model: Any, tokenizer: Any, precision: Precision, checkpoint: Path | None
) -> TrainConfig:
    """The configuration with what it leaves open. Raises `ValueError` if the parts do not fit."""
    block_size = config.block_size or min(512, probe.window(model) or 512)
    probe.check_fit(model, tokenizer, block_size)
    rate = trained_parts.learning_rate(config, model)
    config = dataclasses.replace(
        config,
        precision=precision.name,
        block_size=block_size,
        threads=torch.get_num_threads() if precision.device.type == "cpu" else None,
        learning_rate=rate,
    )
    return _with_micro_batches(
        config, recorded_run(checkpoint).get("config", {}) if checkpoint else {}
    )


def _batches(
    config: TrainConfig, texts: Whole | Streamed, cut: Cutter, checkpoint: Path | None
) -> tuple[Batches, Batches | None, tuple[str, str]]:
    """What is trained on and what is held out, and digests of both."""
    with processes.first_on_its_machine():
        samples, digest = texts.samples(cut)
        documents, limit = texts.held_out_documents(), config.max_eval_samples
        held_out, held_out_digest = (
            cut.samples(documents, limit=limit) if documents else (None, "none")
        )
    if not held_out and (config.save_best or config.early_stopping_patience):
        raise ValueError(
            "--save_best and --early_stopping_patience go by the held-out loss, but no text is "
            "held out: name --validation_file, or leave them out"
        )
    collate = CausalLMCollator(pad_token_id=cut.tokenizer.pad_token_id)
    # A version whose checkpoints do not name the order had the first one.
    order = recorded_run(checkpoint).get("order", 1) if checkpoint else texts.order
    size, eval_size = config.per_device_train_batch_size, config.per_device_eval_batch_size
    data = Batches(samples, collate, batch_size=size, seed=config.seed, order=order)
    evaluated = Batches(held_out, collate, batch_size=eval_size) if held_out else None
    return data, evaluated, (digest, held_out_digest)


def _are_chats(samples: Any) -> bool:
    parts = samples.parts if isinstance(samples, Mixture) else [samples]
    return any("labels" in part[0] for part in parts)


def first_state(config: TrainConfig, model: Any, precision: Precision) -> TrainState:
    """The state at step 0 of a run whose settings, learning rate included, are decided."""
    assert config.learning_rate is not None
    optimizer = build_optimizer(
        model,
        name=config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
    )
    return TrainState.create(model, optimizer, precision=precision, seed=config.seed)


def _with_micro_batches(config: TrainConfig, earlier: Mapping[str, Any]) -> TrainConfig:
    """With the number of micro-batches decided; `earlier` is what a run to be resumed recorded.

    If such a run had divided them, as memory ran out, it goes on with those.
    """
    n = config.gradient_accumulation_steps * processes.size()
    if earlier and "fixed_sum_order" not in earlier:  # by a version that knew one process
        config = dataclasses.replace(config, fixed_sum_order=False)
        n = earlier.get("gradient_accumulation_steps", n)
    n = config.micro_batches_per_step or n
    size = config.per_device_train_batch_size
    then = [
        earlier.get(name, 0) for name in ("per_device_train_batch_size", "micro_batches_per_step")
    ]
    if config.auto_micro_batch and math.prod(then) == size * n:
        size, n = then
    return dataclasses.replace(config, per_device_train_batch_size=size, micro_batches_per_step=n)


def _prepare_model(config: TrainConfig, model: Any, device: torch.device) -> None:
    """Bring a model to the device, ready to be trained as the configuration has it."""
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if config.torch_compile:
        compile_blocks(model)
    if config.fsdp:
        check_names(model)
        shard(model, device)
    model.to(device)
    if not config.torch_compile:
        accelerate(model)


def _max_steps(config: TrainConfig, n_batches: int) -> int:
    """Optimizer steps of the run. Raises `ValueError` if it would end before its warm-up."""
    assert config.micro_batches_per_step
    steps_per_epoch = -(-n_batches // config.micro_batches_per_step)
    max_steps = config.max_steps or max(1, math.ceil(config.num_train_epochs * steps_per_epoch))
    if config.warmup_steps > max_steps:
        raise ValueError(
            f"--warmup_steps {config.warmup_steps} is more than the run's {max_steps} steps, "
            "give fewer or --warmup_ratio"
        )
    return max_steps


def _tokenizer_and_model(
    config: TrainConfig, documents: Callable[[], Any], checkpoint: Path | None
) -> tuple[Any, Any]:
    """Loaded from the checkpoint, loaded by name, or new."""
    if checkpoint and not config.lora_r:
        tokenizer = loading.load_tokenizer(str(checkpoint))
        return tokenizer, loading.load_model(str(checkpoint), dropout=config.dropout)
    if config.loaded_model:
        name, revision = config.loaded_model, config.model_revision
        tokenizer_name = str(checkpoint or config.tokenizer_name or name)
        tokenizer_revision = revision if tokenizer_name == name else "main"
        tokenizer = loading.load_tokenizer(tokenizer_name, revision=tokenizer_revision)
        return tokenizer, loading.load_model(name, revision=revision, dropout=config.dropout)
    if config.tokenizer_name:
        tokenizer = loading.load_tokenizer(config.tokenizer_name)
    else:
        overrides = loading.parse_overrides(config.config_overrides)
        size = overrides.get("vocab_size", loading.DEFAULT_VOCAB_SIZE)
        if not isinstance(size, int) or size < MIN_VOCAB_SIZE:
            raise ValueError(
                f"--config_overrides vocab_size={size} makes no tokenizer, "
                f"give a whole number, at least {MIN_VOCAB_SIZE}"
            )
        tokenizer = loading.train_tokenizer(texts_of(documents()), vocab_size=size)
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(config.seed)
        model = loading.new_model(
            str(config.model_type),
            tokenizer=tokenizer,
            overrides=config.config_overrides,
            dropout=config.dropout,
        )
    return tokenizer, model
