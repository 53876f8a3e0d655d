"""llama.cpp itself, asked what it reads in a GGUF file: through the package `xllamacpp`.

It answers as a server of this machine alone, with a key that nobody else has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def is_installed() -> bool:
    """Whether `xllamacpp` can be imported."""
    return importlib.util.find_spec("xllamacpp") is not None


class Reader:
    """A model that llama.cpp has read."""

    def __init__(self, server: Any, key: str) -> None:
        self._server, self._key = server, key

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, with those that begin or end it."""
        asked = {"content": text, "add_special": True, "parse_special": False}
        found: list[int] = self._answer("tokenize", asked)["tokens"]
        return found

    def greedy(self, ids: Sequence[int], count: int) -> list[tuple[int, float | None]]:
        """The next tokens and their log-probabilities in nats, fewer if the text ends.

        None for all of a text that has parts of characters: the server gives them no probability.
        """
        asked = {"prompt": list(ids), "n_predict": count, "temperature": 0, "n_probs": 1}
        answer = self._answer("completion", {**asked, "return_tokens": True, "cache_prompt": False})
        tokens, said = answer["tokens"], answer.get("completion_probabilities", [])
        if [entry["id"] for entry in said] != tokens:
            return [(token, None) for token in tokens]
        return [(entry["id"], entry["logprob"]) for entry in said]

    def _answer(self, path: str, asked: Mapping[str, Any]) -> Any:
        """What the server answers to a question."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        address = f"{self._server.listening_address}/{path}"
        request = urllib.request.Request(address, json.dumps(asked).encode(), headers)
        without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with without_proxy.open(request) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running(path: Path, context: int) -> Iterator[Reader]:
    """llama.cpp with the file loaded, on the CPU. Raises `ValueError` if it does not load it."""
    import xllamacpp

    key = secrets.token_hex(16)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.api_keys = [key]
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = context, 1, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.warmup, settings.verbosity = False, -1
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:
        raise ValueError(f"llama.cpp cannot load the file, {error}; it is deleted") from error
    yield Reader(server, key)
