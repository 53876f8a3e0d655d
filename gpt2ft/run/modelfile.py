"""The Modelfile with which Ollama takes a GGUF file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ..data.chat_template import PLAIN_TEMPLATE
from ..models.gguf_tokenizer import ends
from ..system import durable

PLAIN = (
    '{{- range $i, $_ := .Messages }}{{ if $i }}{{ "\\n\\n" }}{{ end }}### '
    '{{ if eq .Role "user" }}User{{ else if eq .Role "assistant" }}Assistant'
    '{{ else if eq .Role "system" }}System{{ else }}{{ .Role }}{{ end }}:'
    '{{ "\\n" }}{{ .Content }}{{ if eq .Role "assistant" }}{{ END }}{{ end }}{{ end }}'
    '{{ "\\n\\n" }}### Assistant:{{ "\\n" }}'
)
"""`PLAIN_TEMPLATE` in Ollama's language, Go's text/template; END: the end-of-text token."""


def write_modelfile(path: Path, model_file: Path, model: Any, tokenizer: Any) -> str:
    """Write it beside the file of the model; returns what to say about it.

    The form of a text is only said where it is known: without a chat template the prompt as it is,
    with ours its translation. Of others Ollama knows many from the GGUF file itself.
    """
    template = tokenizer.chat_template
    lines = [f"FROM ./{model_file.name}"]
    if not template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif template == PLAIN_TEMPLATE:
        end = json.dumps(tokenizer.eos_token, ensure_ascii=False)
        lines.append(f'TEMPLATE """{PLAIN.replace("END", end)}"""')
    for token in ends(model, tokenizer):
        text = tokenizer.decode([token])
        lines.append(f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}")
    durable.write(path, ("\n".join(lines) + "\n").encode())
    said = f"Ollama: ollama create {shlex.quote(model_file.stem)} -f {shlex.quote(str(path))}"
    if template and template != PLAIN_TEMPLATE:
        said += "; TEMPLATE is left to Ollama, look at what `ollama show --template` says"
    return said
