"""How a model is evaluated on a text: every default, once; a field's docstring is its help text.

What else a flag means stands at its field, see `settings.setting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..settings import check_bounds, check_encoding, setting


@dataclass(frozen=True)
class EvaluateConfig:
    """How good a model is on a text, and whether it is better than another."""

    baseline: str | None = None
    """Model to compare with: a folder, a .gguf file, a name on the hub, or gpt2-mini (built in)."""
    validation_file: list[str] = setting(list)
    """Files or globs to evaluate on; default, if the model is the output folder of a run: the text
    that the run held out."""
    dataset_name: str | None = None
    """Data set to evaluate on: a name on the Hugging Face hub, or a folder of that form."""
    dataset_config_name: str | None = None
    """Configuration of the data set."""
    dataset_split: str = "test"
    """Split of the data set, slices allowed."""
    text_column: str | None = None
    """Column that holds the text; default: text, else the only column of strings."""
    prompt_column: str | None = None
    """Column of what is asked, where each record is a question and its answer."""
    completion_column: str | None = None
    """Column of the answer, with prompt_column."""
    encoding: str = "utf-8"
    """Encoding of the files, as Python names it: cp1252, utf-16, ..."""
    row_separator: Literal["eos", "none"] | None = None
    """What ends a document: the end-of-text token, or nothing where rows are lines of one text;
    default: as in the run, else eos."""
    max_eval_samples: int | None = setting(None, at_least=1)
    """Evaluate on at most this many blocks, the first ones."""
    protocol: Literal["blocked", "sliding"] = "blocked"
    """blocked: the text is cut into blocks as in training, and the first token of a block is not
    predicted. sliding: a window moves over each document, so that every token is predicted with
    much text before it; slower, and the loss is lower."""
    block_size: int | None = setting(None, at_least=3)
    """Tokens of a block or window; default: as in the run, else the model's window, at most 512."""
    stride: int | None = setting(None, at_least=1)
    """Tokens between two windows, with sliding; default: half the block_size."""
    per_device_eval_batch_size: int = setting(8, at_least=1)
    """Blocks or windows at a time."""
    model_revision: str = "main"
    """Branch, tag or commit of the model on the hub."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp16 on CUDA, bf16 on a CPU with bf16 hardware, else fp32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: CUDA, else MPS, else the CPU."""
    threads: int | None = setting(None, at_least=1, at_most=1024)
    """Threads that compute on a CPU; default: torch's choice."""
    json: bool = False
    """Write the card as JSON."""
    markdown: bool = False
    """Write the card as a table of Markdown."""
    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        if self.validation_file and self.dataset_name:
            raise ValueError("--validation_file and --dataset_name exclude each other, give one")
        if self.json and self.markdown:
            raise ValueError("--json and --markdown exclude each other, give one")
        if self.stride is not None and self.protocol == "blocked":
            raise ValueError(f"--stride {self.stride} is for --protocol sliding, add that")
        if self.max_eval_samples is not None and self.protocol == "sliding":
            raise ValueError("--max_eval_samples is for --protocol blocked, leave it out")
        check_bounds(self)
        check_encoding(self.encoding)
