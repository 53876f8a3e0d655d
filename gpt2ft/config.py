"""The configuration of a run: every default, once; a field's docstring is its help text.

What else a flag means stands at its field, see `settings.setting`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from .settings import check_bounds, check_encoding, setting

TRACKERS = ("tensorboard", "wandb", "trackio", "none")


@dataclass
class TrainConfig:
    """One fine-tuning run, from corpus to finished model."""

    model_name_or_path: str | None = setting(
        "gpt2", path=True, rules_out_fallback=True, one_of="model"
    )
    """Model to fine-tune: a name on the Hugging Face hub, a folder, a .gguf file, or gpt2-mini."""
    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub."""
    model_type: str | None = setting(None, rules_out_fallback=True, one_of="model")
    """Train a new model of this type (gpt2, llama, ...) instead of loading one."""
    config_overrides: str | None = setting(None, rules_out_fallback=True)
    """Sizes of the new model: n_layer=4,n_embd=192,..."""
    tokenizer_name: str | None = setting(None, path=True, rules_out_fallback=True)
    """Tokenizer; default: the model's own. A new model without one gets a byte-level BPE trained on
    the corpus, of vocab_size entries (config_overrides), 8192 if not given."""
    dropout: float | None = setting(None, at_least=0, below=1)
    """Set every dropout probability of the model to this."""

    lora_r: int | None = setting(None, at_least=1)
    """Train a LoRA adapter of this rank, and leave the model's own weights as they are."""
    lora_alpha: int | None = setting(None, at_least=1)
    """What the adapter adds is multiplied by lora_alpha / lora_r; default: twice lora_r."""
    lora_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout probability before the adapter's layers."""
    lora_target_modules: list[str] = setting(list)
    """Names of the layers that get an adapter, in every block; default: those that peft names for
    the architecture, for one it does not know all linear layers but the head."""
    merge_lora: bool = setting(False, may_change=True)
    """At the end add the adapter to the weights: the finished model is a whole one then."""
    freeze: list[str] = setting(list)
    """Patterns of names of parameters that are not trained: *.wte.* *.h.0.*"""

    dataset_name: str | None = setting(
        None, may_change=True, path=True, rules_out_fallback=True, one_of="corpus"
    )
    """Data set: a name on the Hugging Face hub, a folder of that form, or python-reference (built
    in)."""
    dataset_config_name: str | None = setting(None, may_change=True, rules_out_fallback=True)
    """Configuration of the data set."""
    dataset_split: str = setting("train", may_change=True, rules_out_fallback=True)
    """Split to train on, slices allowed: train[:50%]."""
    train_file: list[str] = setting(
        list, may_change=True, path=True, rules_out_fallback=True, one_of="corpus"
    )
    """Files, globs or folders to train on: .txt, .md, .jsonl, .json, .csv, .parquet, also packed
    (.gz .xz .bz2 .zst); any other is read as text. Several corpora get a weight each: a.txt:0.7
    b.jsonl:0.3."""
    validation_file: list[str] = setting(list, may_change=True, path=True)
    """Files or globs to evaluate on."""
    validation_split_percentage: float = setting(5.0, may_change=True, at_least=0, below=100)
    """Percent of the corpus to hold out if there is no validation split or file; 0 holds nothing
    out."""
    text_column: str | None = setting(None, may_change=True)
    """Column that holds the text; default: text, else the only column of strings. Records with
    messages, or conversations as ShareGPT has them, are chats."""
    prompt_column: str | None = setting(None, may_change=True)
    """Column of what is asked, where each record is a question and its answer."""
    completion_column: str | None = setting(None, may_change=True)
    """Column of the answer, with prompt_column."""
    train_on: Literal["answer", "prompt_and_answer"] = "answer"
    """What is learned of a chat: the answers alone, or all of it."""
    encoding: str = setting("utf-8", may_change=True)
    """Encoding of the files, as Python names it: cp1252, utf-16, ..."""
    deduplicate: bool = setting(False, may_change=True)
    """Leave out documents that are equal to an earlier one."""
    block_size: int | None = setting(None, at_least=2)
    """Tokens per block or row; default: the model's window, at most 512."""
    packing: bool = setting(
        True, off_help="Do not pack: each line or record is a sample, cut to block_size."
    )
    """Pack the documents into full blocks; else each line or record is a sample, cut to
    block_size."""
    row_separator: Literal["eos", "none"] = "eos"
    """What ends a document or row: the end-of-text token, or nothing where rows are lines of one
    text."""
    max_train_samples: int | None = setting(None, may_change=True, at_least=1)
    """Train on at most this many blocks or rows, the first ones."""
    max_eval_samples: int | None = setting(None, may_change=True, at_least=1)
    """Evaluate on at most this many blocks or rows, the first ones."""
    streaming: bool = False
    """For a corpus that is larger than the disk: read it file by file, each downloaded, tokenized
    and deleted when its turn comes. Needs max_steps."""
    files_at_once: int = setting(4, at_least=1)
    """Files whose samples are shuffled together, with streaming. Three times as many are on
    disk."""
    preprocessing_num_workers: int | None = setting(None, may_change=True, at_least=1, at_most=1024)
    """Processes that tokenize; default: one process, many threads."""

    output_dir: str = setting("./gpt2-finetuned", may_change=True)
    """Folder of the checkpoints and the finished model."""
    overwrite_output_dir: bool = setting(False, of_command=True)
    """Delete the run that output_dir holds, and start anew."""
    resume: str | None = setting(
        None,
        of_command=True,
        rules_out_fallback=True,
        value_if_bare="newest",
        flag="--resume_from_checkpoint",
    )
    """Go on from the newest valid checkpoint in output_dir, or from the one named. `--resume auto`
    starts the run if there is none yet: for a command that is repeated until the run is done."""

    fork: str | None = setting(None, of_command=True, rules_out_fallback=True)
    """Begin as the run in this folder was after --step, with its settings and those given."""
    step: int | None = setting(None, of_command=True, at_least=1)
    """The step to fork at."""

    per_device_train_batch_size: int = setting(8, at_least=1)
    """Samples per micro-batch."""
    per_device_eval_batch_size: int = setting(8, may_change=True, at_least=1)
    """Samples per evaluation batch."""
    gradient_accumulation_steps: int = setting(1, may_change=True, at_least=1)
    """Micro-batches per optimizer step, of each process."""
    micro_batches_per_step: int | None = setting(None, at_least=1)
    """Micro-batches per optimizer step, of all processes together, also on another number of them;
    default: gradient_accumulation_steps times the number of processes."""
    fixed_sum_order: bool = setting(
        True,
        off_help="Add gradients in turn: less memory from 4 micro-batches a process on, but other "
        "bits on another number of processes.",
    )
    """Add gradients in an order that does not depend on the number of processes."""
    auto_micro_batch: bool = setting(False, may_change=True)
    """When a GPU runs out of memory in a step, begin it again in smaller micro-batches, and go on
    with these: the same samples a step. For one process. On a CPU, what a step needs is estimated
    before the first."""
    fsdp: bool = setting(False, may_change=True)
    """Divide weights, gradients and moments among the processes (FSDP2): for a model that is too
    large for one device. On another number of processes the last bits are others."""
    num_train_epochs: float = setting(1.0, may_change=True, above=0, at_most=10**6)
    """Passes over the corpus. May be raised when resuming: the learning rate then follows the
    schedule of the longer run from there on."""
    max_steps: int | None = setting(None, may_change=True, at_least=1)
    """Optimizer steps; overrides num_train_epochs. May also be raised when resuming."""
    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"
    """adamw keeps 8 bytes for each weight; adafactor almost none; sgd, without momentum, none."""
    learning_rate: float | None = setting(None, at_least=0, at_most=1000)
    """Peak learning rate; default: with adamw the one that the model recommends (gpt2-mini: 0.001),
    else 5e-5, and for an adapter ten times the one recommended, else 2e-4; with adafactor, where it
    is relative to the size of the weights, 0.001. sgd has no default."""
    weight_decay: float = setting(0.0, at_least=0, at_most=1000)
    """Decay of matrices and embeddings; biases and norms have none."""
    adam_beta1: float = setting(0.9, at_least=0, below=1)
    """AdamW's beta1."""
    adam_beta2: float = setting(0.999, at_least=0, below=1)
    """AdamW's beta2."""
    # Smaller than 1e-45 is 0 in fp32, and AdamW would divide 0 by 0.
    adam_epsilon: float = setting(1e-8, at_least=1e-30, at_most=1)
    """AdamW's epsilon."""
    max_grad_norm: float = setting(1.0, above=0)
    """Largest norm of the gradient, a larger one is scaled down to it; inf: no clipping."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warm-up; linear and cosine end at 0."""
    warmup_steps: int = setting(0, at_least=0)
    """Optimizer steps over which the learning rate rises from 0."""
    warmup_ratio: float = setting(0.0, at_least=0, below=1)
    """Warm-up as a fraction of all steps, used where warmup_steps is 0."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU with bf16 hardware, else fp32."""
    on_nonfinite: Literal["stop", "skip"] = setting("stop", may_change=True)
    """What to do when loss or gradient is not finite: stop before the update, or skip the update
    and go on. An overflow in fp16 is always skipped. Ten skipped updates in a row stop the run."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    torch_compile: bool = False
    """Compile the model's blocks with torch.compile. On a CPU it takes the place of this program's
    own kernels and is not faster. Evaluations and samples are not compiled."""
    seed: int = setting(42, at_least=0, below=2**63)
    """Seed of the order of the data, dropout and new weights."""
    device: str = setting("auto", may_change=True)
    """cpu, cuda, cuda:1, mps; auto: CUDA, else MPS, else the CPU."""
    threads: int | None = setting(None, may_change=True, at_least=1, at_most=1024)
    """Threads that compute on a CPU; default: torch's choice, and when resuming, as many as before.
    With another number the last bits of the results differ."""

    logging_steps: int = setting(100, may_change=True, at_least=1)
    """Optimizer steps between log lines."""
    eval_steps: int | None = setting(None, may_change=True, at_least=1)
    """Optimizer steps between further evaluations, besides those before and after the run."""
    save_steps: int = setting(500, may_change=True, at_least=1)
    """Optimizer steps between checkpoints."""
    save_total_limit: int = setting(2, may_change=True, at_least=2)
    """Checkpoints kept, at least 2."""
    save_best: bool = setting(False, may_change=True)
    """Also keep the checkpoint with the lowest held-out loss, and put its model into output_dir at
    the end instead of the last one. Needs eval_steps."""
    keep_every: int | None = setting(None, may_change=True, at_least=1)
    """Never delete checkpoints of steps that are a multiple of this, so that any step is near one:
    see the command rewind."""
    early_stopping_patience: int | None = setting(None, may_change=True, at_least=1)
    """Stop after this many evaluations in a row without a new lowest held-out loss. Needs
    eval_steps."""
    sample_prompts: list[str] = setting(list, may_change=True)
    """Texts that the model continues before, during and after training, or a file of them;
    default: the beginning of the held-out text."""
    sample_steps: int | None = setting(None, may_change=True, at_least=1)
    """Optimizer steps between samples; default: they are written at each evaluation."""
    dry_run: bool = setting(False, of_command=True)
    """Say what the run would take, time, memory and disk, and show its data; a few steps are
    measured, nothing is kept."""
    json: bool = setting(False, of_command=True)
    """Write what --dry_run finds, or the command pilot, as JSON."""
    report_to: list[str] = setting(list, may_change=True)
    """Trackers that get the records of steps and evaluations too: tensorboard, wandb, trackio; each
    needs the extra of its name."""
    debug: bool = setting(False, of_command=True)
    """Show the traceback of an error."""

    @property
    def loaded_model(self) -> str | None:
        """The model to load; None if `model_type` is set: then a new one is made instead."""
        return None if self.model_type else self.model_name_or_path

    def validate(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) == "":
                raise ValueError(f"--{field.name} is empty, give a value or leave it out")
        if not self.train_file and self.dataset_name is None:
            raise ValueError("no corpus, name --train_file or --dataset_name")
        if self.model_name_or_path is None and self.model_type is None:
            raise ValueError("no model, name --model_name_or_path or --model_type")
        if self.config_overrides and self.model_type is None:
            raise ValueError("--config_overrides is for a new model, add --model_type")
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("--prompt_column and --completion_column go together, give both")
        if self.prompt_column and self.text_column:
            raise ValueError("--text_column is for texts, leave it out or --prompt_column")
        check_encoding(self.encoding)
        if self.encoding != "utf-8" and not (self.train_file or self.validation_file):
            raise ValueError("--encoding is for files, leave it out")
        if self.deduplicate and (self.streaming or self.row_separator == "none"):
            other = "--streaming" if self.streaming else "--row_separator none"
            raise ValueError(f"--deduplicate and {other} exclude each other, leave out one")
        lora = ("lora_alpha", "lora_dropout", "lora_target_modules", "merge_lora")
        if self.lora_r is None and (given := [name for name in lora if getattr(self, name)]):
            raise ValueError(f"--{given[0]} is for a LoRA adapter, add --lora_r 8")
        if self.lora_r and self.model_type:
            raise ValueError(
                "--lora_r adapts a model that is trained already, and --model_type makes a new "
                "one, leave one of them out"
            )
        if self.lora_r and self.fsdp:
            raise ValueError("--lora_r cannot be divided among processes yet, leave out --fsdp")
        if self.streaming and (self.max_steps is None or self.max_train_samples):
            raise ValueError(
                "--streaming needs --max_steps and excludes --max_train_samples, as the number of "
                "samples is not known"
            )
        for name in self.report_to:
            if name not in TRACKERS:
                raise ValueError(f"--report_to {name} is none of {', '.join(TRACKERS)}")
        if self.json and not self.dry_run:
            raise ValueError("--json is for --dry_run, give both or none")
        if self.dry_run and (self.resume or self.fork):
            raise ValueError("--dry_run is for a new run, leave out --resume and --fork")
        if (self.fork is None) != (self.step is None):
            raise ValueError("--fork RUN and --step N go together, give both")
        if self.fork and (self.resume or self.overwrite_output_dir):
            raise ValueError("--fork begins a new run, leave out --resume, --overwrite_output_dir")
        for name in ("save_best", "early_stopping_patience"):
            if getattr(self, name) and self.eval_steps is None:
                raise ValueError(f"--{name} goes by the held-out loss on the way, add --eval_steps")
        if self.resume and self.overwrite_output_dir:
            raise ValueError("--resume and --overwrite_output_dir exclude each other, give one")
        if self.max_grad_norm == 0:  # the Trainer's way to turn it off
            raise ValueError("--max_grad_norm 0 would train nothing; inf turns clipping off")
        self._validate_optimizer()
        check_bounds(self)

    def _validate_optimizer(self) -> None:
        if self.optimizer == "sgd" and self.learning_rate is None:
            raise ValueError("--optimizer sgd has no default rate, give --learning_rate, say 0.1")
        if self.optimizer == "adafactor" and self.fsdp:
            raise ValueError("--fsdp cannot divide what adafactor keeps, use --optimizer adamw")
        for field in dataclasses.fields(self):
            given = getattr(self, field.name) != field.default
            if field.name.startswith("adam_") and given and self.optimizer != "adamw":
                raise ValueError(
                    f"--{field.name} is of adamw, leave it out with --optimizer {self.optimizer}"
                )
