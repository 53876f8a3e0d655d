"""A request answered by a model: its text, token by token, or what a token might have been."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any

import torch

from ..data.chat_template import question_ids
from ..generation.kv_cache import Contexts
from ..generation.ready_model import ReadyModel
from ..generation.text import Continuation, TextDecoder, begin, extend, window_note
from ..models.probe import window
from .served_model import Event
from .text_request import TextRequest

ALTERNATIVES = 10
LONGEST_CHARACTER = 16  # tokens, after which what is still no character is shown as none


def written(model: ReadyModel, wanted: TextRequest) -> Generator[Event, None, None]:
    """The events of a text: its start, each token, and its end.

    Prompt and fixed tokens are read anew each time, so that the same request has the same text.
    Raises `ValueError` as `generate_tokens` does, or if a token id is not in the vocabulary.
    """
    text = _begun(model, wanted)
    fixed = _fixed_pieces(model, text, wanted)
    text.prompt_ids += wanted.fixed
    yield {"start": {"seed": text.seed, "fixed": fixed}}
    started = time.perf_counter()
    shown, known = 0, 0.0  # tokens that were sent, and the logarithm of their probability

    def token(piece: str) -> Event:
        ids, probability = text.tokens[shown:], math.exp(text.log_probability - known)
        return {"token": {"ids": ids, "text": piece, "probability": probability}}

    for (piece,) in extend(
        model.model, model.tokenizer, [text], wanted.sampling, corpus=model.corpus
    ):
        if piece:  # else half a character, or what may begin a stop string
            yield token(piece)
            shown, known = len(text.tokens), text.log_probability
    if text.tokens[shown:]:
        yield token("")
    yield {
        "end": {
            "reason": text.stop_reason,
            "tokens": len(text.tokens),
            "tokens_per_second": len(text.tokens) / (time.perf_counter() - started),
            "note": window_note(model.model, text),
        }
    }


def alternatives(model: ReadyModel, wanted: TextRequest) -> Generator[Event, None, None]:
    """The most probable tokens after a text, whatever the settings are. Raises as `written`."""
    text = _begun(model, wanted)
    ids = text.prompt_ids + wanted.fixed
    with torch.inference_mode():
        logits = Contexts(model.model, [ids]).next_logits()[0].float()
        shares, tokens = logits.softmax(-1).topk(min(ALTERNATIVES, len(logits)))
    found = []
    for token, share in zip(tokens.tolist(), shares.tolist(), strict=True):
        decoder = TextDecoder(model.tokenizer, ids)
        shown = decoder.push(token) + decoder.flush()
        name = str(model.tokenizer.convert_ids_to_tokens(token))
        found.append({"id": token, "text": shown, "name": name, "probability": share})
    yield {"alternatives": found}


def _begun(model: ReadyModel, wanted: TextRequest) -> Continuation:
    """The text, of which there is the beginning."""
    text = begin(model.tokenizer, wanted.prompt, wanted.seed)
    if wanted.messages:
        text.prompt_ids = question_ids(model.tokenizer, wanted.messages)
    rows = model.model.get_input_embeddings().weight.shape[0]
    if wanted.fixed and max(wanted.fixed) >= rows:
        raise ValueError(
            f"the text has token {max(wanted.fixed)}, but the model's vocabulary has {rows:,}: it "
            "was written by another model"
        )
    return text


def _fixed_pieces(model: ReadyModel, text: Continuation, wanted: TextRequest) -> list[Event]:
    """The text of each fixed token, and its probability if that is asked for."""
    chances: list[float | None] = [None] * len(wanted.fixed)
    if wanted.score_fixed and wanted.fixed:
        found = _probabilities(model.model, text.prompt_ids + wanted.fixed)
        chances = (chances + found)[-len(wanted.fixed) :]  # unknown before the window
    decoder, pieces, held = TextDecoder(model.tokenizer, text.prompt_ids), [], 0
    for number, token in enumerate(wanted.fixed, 1):
        piece = decoder.push(token)
        if number == len(wanted.fixed) or number - held >= LONGEST_CHARACTER:
            piece += decoder.flush()
            decoder = TextDecoder(model.tokenizer, text.prompt_ids + wanted.fixed[:number])
        if piece or number == len(wanted.fixed):
            own = [chance for chance in chances[held:number] if chance is not None]
            chance = math.prod(own) if own else None
            pieces.append({"ids": wanted.fixed[held:number], "text": piece, "probability": chance})
            held = number
    return pieces


def _probabilities(model: Any, ids: list[int]) -> list[float | None]:
    """Of the newest tokens that the model can read at once, that of each after those before."""
    ids = ids[-(window(model) or len(ids)) :]
    row = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.inference_mode():
        output = model(row)
        logits = getattr(output, "logits", output)[0, :-1].float()
        found = logits.log_softmax(-1).gather(-1, row[0, 1:, None]).squeeze(-1).exp()
    return [None, *found.tolist()]
