"""The card of a model on the hub, made from the run that trained it: README.md with its metadata.

It shows no text of the corpus: files by their name alone, and of samples only prompts that
somebody gave.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.built_in import BUILT_IN_TEXT
from ..data.file_list import weighted
from ..evaluation.card import short
from ..evaluation.run_folder import RunFolder
from ..models.names import is_of_hub

SETTINGS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "optimizer", "weight_decay"),
    *("max_grad_norm", "per_device_train_batch_size", "micro_batches_per_step", "block_size"),
    *("packing", "num_train_epochs", "max_steps", "precision", "dropout", "lora_r", "lora_alpha"),
    *("freeze", "seed"),
)
"""What of a run's settings is shown; none of them is a path."""
LONGEST_SAMPLE = 2000  # characters


@dataclass(frozen=True)
class ModelCard:
    """What a card is made from."""

    name: str
    """Of the model on the hub: `user/model`."""
    license: str
    run: RunFolder
    settings: Mapping[str, Any]
    """Of the run's config.yaml."""
    is_chat: bool
    """Whether the model has a chat template."""
    is_adapter: bool

    def text(self) -> str:
        """The whole file."""
        title = self.name.rpartition("/")[2]
        parts = [
            f"---\n{self._metadata()}\n---",
            f"# {title}",
            self._what_it_is(),
            f"## Use\n\n{self._use()}",
            f"## Data\n\n{self._data()}",
            f"## Result\n\n{self._result()}",
            f"## Settings\n\n{self._settings()}",
            *([f"## Samples\n\n{samples}"] if (samples := self._samples()) else []),
            f"## Made with\n\n{self._made_with()}",
        ]
        return "\n\n".join(parts) + "\n"

    @property
    def base(self) -> str | None:
        """The model on the hub that was fine-tuned; None if it is none of the hub's."""
        name = self.settings.get("model_name_or_path")
        return str(name) if name and is_of_hub(name) else None

    @property
    def dataset(self) -> str | None:
        """The data set on the hub; None if the text came from elsewhere."""
        name = self.settings.get("dataset_name")
        ours = not name or name == BUILT_IN_TEXT or os.path.isabs(name) or os.path.isdir(name)
        return None if ours else str(name)

    def _metadata(self) -> str:
        from huggingface_hub import EvalResult, ModelCardData

        results = None
        if self.dataset and (model := self.run.card.get("model")):
            results = [
                EvalResult(
                    task_type="text-generation",
                    dataset_type=self.dataset,
                    dataset_name=f"{self.dataset}, held out",
                    metric_type=kind,
                    metric_value=round(model[kind], 4),
                )
                for kind in ("perplexity", "accuracy")
            ]
        data = ModelCardData(
            license=self.license,
            library_name="peft" if self.is_adapter else "transformers",
            pipeline_tag="text-generation",
            tags=["gpt2ft"],
            base_model=self.base,
            datasets=[self.dataset] if self.dataset else None,
            model_name=self.name.rpartition("/")[2] if results else None,
            eval_results=results,
        )
        return data.to_yaml().strip()

    def _what_it_is(self) -> str:
        name = self.settings.get("model_name_or_path")
        what = "A LoRA adapter for" if self.is_adapter else "Fine-tuned from"
        if self.base:
            begun = f"{what} [{self.base}](https://huggingface.co/{self.base})"
        elif name:
            begun = f"{what} {_code(_last(name))}"
        else:
            begun = (
                f"A new model of the type {_code(str(self.settings.get('model_type')))}, trained"
            )
        steps, tokens = self.run.facts.get("step_of_the_model"), self.run.facts.get("tokens")
        after = f", after {steps:,} steps" if steps else ""
        seen = f" and {tokens:,} tokens" if tokens else ""
        return f"{begun} by gpt2ft{after}{seen}. This card was made from the record of the run."

    def _use(self) -> str:
        asked = '[{"role": "user", "content": "Who are you?"}]' if self.is_chat else '"Once upon"'
        end = '[0]["generated_text"]' + ('[-1]["content"]' if self.is_chat else "")
        chat = " --chat" if self.is_chat else ""
        return (
            "```python\nfrom transformers import pipeline\n\n"
            f'write = pipeline("text-generation", model="{self.name}")\n'
            f"print(write({asked}, max_new_tokens=40){end})\n```\n\n"
            f"```sh\ngpt2ft generate -i{chat} --model_name_or_path {self.name}\n```"
        )

    def _data(self) -> str:
        settings = self.settings
        if self.dataset:
            part = ", ".join(
                _code(str(settings[key]))
                for key in ("dataset_config_name", "dataset_split")
                if settings.get(key)
            )
            where = f"[{self.dataset}](https://huggingface.co/datasets/{self.dataset})"
            lines = [where + (f" ({part})" if part else "")]
        elif settings.get("train_file"):
            files = settings["train_file"]
            named = [
                f"{_code(_last(name))} with weight {weight:g}" for name, weight in weighted(files)
            ]
            lines = [f"Files of the author: {', '.join(named or [_code(_last(f)) for f in files])}"]
        else:
            lines = [_code(_last(str(settings.get("dataset_name") or "a text of the author")))]
        if model := self.run.card.get("model"):
            lines.append(f"held out to evaluate: {model['n_targets']:,} tokens")
        if settings.get("train_on") == "answer" and self.is_chat:
            lines.append("of conversations only the answers were learned")
        return "; ".join(lines) + ". The text itself is not part of this repository."

    def _result(self) -> str:
        card = self.run.card
        model, baseline = card.get("model"), card.get("baseline")
        if not model:
            return "No text was held out: how good the model is was not measured."
        columns = [("before", baseline), ("after", model)] if baseline else [("after", model)]
        rows = [("held-out text", [name for name, _ in columns])]
        shown = {
            "loss": lambda score: f"{score['loss']:.4f}",
            "perplexity": lambda score: short(score["perplexity"]),
            "bits per byte": lambda score: f"{score['bits_per_byte']:.4f}",
            "accuracy": lambda score: f"{score['accuracy']:.1%}",
        }
        rows += [(name, [show(score) for _, score in columns]) for name, show in shown.items()]
        lines = [f"| {name} | {' | '.join(values)} |" for name, values in rows]
        lines.insert(1, "|---" + "|---:" * len(columns) + "|")
        size = f"{model['n_targets']:,} tokens, {model['n_bytes']:,} bytes; {card['protocol']}."
        verdict = card.get("verdict") or ""
        said = f" The model is {verdict}." if verdict[:6] in ("better", "worse ") else ""
        said = said or (f" {verdict[0].upper()}{verdict[1:]}." if verdict else "")
        return "\n".join([*lines, "", size + said])

    def _settings(self) -> str:
        found = {name: self.settings.get(name) for name in SETTINGS}
        rows = [
            f"| {name} | {_code(_value(value))} |"
            for name, value in found.items()
            if value not in (None, [], False)
        ]
        return "\n".join(["| setting | value |", "|---|---|", *rows])

    def _samples(self) -> str:
        """What the model wrote before and after; the prompt only if somebody gave it."""
        samples = self.run.samples
        steps = [sample["step"] for sample in samples if "step" in sample]
        if not steps:
            return ""
        given = bool(self.settings.get("sample_prompts"))
        note = "" if given else "The prompts were the beginnings of held-out texts: not shown.\n\n"
        parts = []
        for word, step in dict.fromkeys([("Before", min(steps)), ("After", max(steps))]):
            texts = [
                (sample["prompt"] if given else "... ") + sample["text"]
                for sample in samples
                if sample.get("step") == step
            ]
            parts += [f"{word} (step {step:,}):", *(_fenced(text) for text in texts)]
        return note + "\n\n".join(parts)

    def _made_with(self) -> str:
        facts = self.run.facts
        versions = {"gpt2ft": facts.get("gpt2ft"), **facts.get("versions", {})}
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        digest = facts.get("weights", {}).get("after")
        return listed + (f".\n\nsha256 of the weights: `{digest}`" if digest else "")


def _last(path: str) -> str:
    """The name of a file or folder without the folders it is in."""
    return Path(path).name or path


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code(text: str) -> str:
    """Text as code in a line of Markdown, whatever it holds."""
    return f"`{' '.join(re.sub('[`|]', chr(39), text).split())}`"


def _fenced(text: str) -> str:
    """Text as a block of Markdown that shows it as it is: its fence is longer than any in it."""
    text = re.sub("[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", text.strip())
    if len(text) > LONGEST_SAMPLE:
        text = text[:LONGEST_SAMPLE] + " ..."
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
