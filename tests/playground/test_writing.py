"""Texts and alternatives for the page: pytest tests/playground/test_writing.py"""

import math

import pytest
import torch

from gpt2ft.data.chat_template import give_template, question_ids
from gpt2ft.generation.config import Sampling
from gpt2ft.generation.ready_model import ReadyModel
from gpt2ft.generation.text import generate
from gpt2ft.playground.text_request import TextRequest
from gpt2ft.playground.writing import alternatives, written

SAMPLING = Sampling(max_new_tokens=20, top_k=0, top_p=1.0)


@pytest.fixture(scope="module")
def model(tokenizer):
    from tests.support.tiny import tiny_gpt2

    return ReadyModel("tiny", tiny_gpt2(n_positions=128).eval(), tokenizer)


def wanted(**given):
    empty = {"model": 0, "prompt": "", "messages": [], "fixed": [], "seed": 1}
    return TextRequest(**{**empty, "sampling": SAMPLING, "score_fixed": False, **given})


def parts(events):
    events = list(events)
    tokens = [event["token"] for event in events if "token" in event]
    return events[0]["start"], tokens, events[-1]["end"]


def test_the_text_is_that_of_generate(model):
    start, tokens, end = parts(written(model, wanted(prompt="Once", seed=5)))
    (text,) = generate(model.model, model.tokenizer, "Once", SAMPLING, seed=5)
    assert "".join(token["text"] for token in tokens) == text.text
    assert [i for token in tokens for i in token["ids"]] == text.tokens
    together = sum(math.log(token["probability"]) for token in tokens)
    assert together == pytest.approx(text.log_probability)
    assert start == {"seed": 5, "fixed": []}
    assert end["reason"] == text.stop_reason and end["tokens"] == len(text.tokens)


def test_a_text_goes_on_behind_what_is_fixed(model):
    """Greedily, a text in two parts is the text in one."""
    greedy = Sampling(max_new_tokens=20, do_sample=False)
    half = Sampling(max_new_tokens=10, do_sample=False)
    _, whole, _ = parts(written(model, wanted(prompt="Once", sampling=greedy)))
    _, first, _ = parts(written(model, wanted(prompt="Once", sampling=half)))
    fixed = [i for token in first for i in token["ids"]]
    start, rest, _ = parts(
        written(model, wanted(prompt="Once", fixed=fixed, sampling=half, score_fixed=True))
    )
    ids = fixed + [i for token in rest for i in token["ids"]]
    assert ids == [i for token in whole for i in token["ids"]]
    shown = "".join(piece["text"] for piece in start["fixed"] + rest)
    assert shown == "".join(token["text"] for token in whole)
    assert [piece["probability"] for piece in start["fixed"]] == pytest.approx(
        [token["probability"] for token in first], rel=1e-4
    )


def test_the_same_request_has_the_same_text_whatever_was_written_before(model):
    first = parts(written(model, wanted(prompt="Once upon", seed=3)))[1]
    list(written(model, wanted(prompt="Once upon a time", seed=4)))
    assert parts(written(model, wanted(prompt="Once upon", seed=3)))[1] == first


def test_a_character_of_several_tokens_is_one_piece(model):
    """Bytes of an é: the piece has both ids, and the product of their probabilities."""
    ids = model.tokenizer("é")["input_ids"]
    assert len(ids) == 2
    request = wanted(prompt="caf", fixed=[*ids, ids[0]], score_fixed=True)
    start, *_ = parts(written(model, request))
    whole, half = start["fixed"]
    assert (whole["ids"], whole["text"]) == (ids, "é") and half["ids"] == [ids[0]]
    context = torch.tensor([model.tokenizer("caf")["input_ids"] + ids])
    with torch.no_grad():
        logs = model.model(context).logits[0, 2:4].log_softmax(-1)
    expected = float((logs[0, ids[0]] + logs[1, ids[1]]).exp())
    assert whole["probability"] == pytest.approx(expected, rel=1e-4)


def test_a_stop_string_ends_before_itself_and_no_token_is_lost(model):
    (text,) = generate(model.model, model.tokenizer, "Once", SAMPLING, seed=5)
    stop = text.text[6:9]
    sampling = Sampling(max_new_tokens=20, top_k=0, top_p=1.0, stop_strings=(stop,))
    (expected,) = generate(model.model, model.tokenizer, "Once", sampling, seed=5)
    _, tokens, end = parts(written(model, wanted(prompt="Once", seed=5, sampling=sampling)))
    assert "".join(token["text"] for token in tokens) == expected.text == text.text[:6]
    assert [i for token in tokens for i in token["ids"]] == expected.tokens
    assert end["reason"] == "stop_string"


def test_the_token_that_ends_a_text_is_a_piece_without_text(tokenizer):
    from tests.support.tiny import tiny_gpt2

    ending = tiny_gpt2().eval()
    with torch.no_grad():
        ending.transformer.ln_f.weight.zero_()
        ending.transformer.ln_f.bias.fill_(1.0)
        ending.transformer.wte.weight[0] = 1.0  # the other rows add up to nearly nothing
    model = ReadyModel("tiny", ending, tokenizer)
    greedy = Sampling(max_new_tokens=5, do_sample=False)
    events = parts(written(model, wanted(prompt="Once", sampling=greedy)))
    assert events[2]["reason"] == "end_of_text"
    assert [(token["ids"], token["text"]) for token in events[1]] == [([0], "")]


def test_alternatives_are_the_ten_greatest_of_the_softmax(model):
    ids = model.tokenizer("Once")["input_ids"]
    (found,) = alternatives(model, wanted(prompt="Once", fixed=[70, 71]))
    logits = model.model(torch.tensor([[*ids, 70, 71]])).logits[0, -1].double()
    chances = (logits - logits.max()).exp()
    chances = (chances / chances.sum()).tolist()
    best = sorted(range(len(chances)), key=lambda i: -chances[i])[:10]
    assert [choice["id"] for choice in found["alternatives"]] == best
    for choice in found["alternatives"]:
        assert choice["probability"] == pytest.approx(chances[choice["id"]], rel=1e-4)
        assert choice["name"] == model.tokenizer.convert_ids_to_tokens(choice["id"])


def test_a_conversation_is_what_its_template_writes(model):
    give_template(model.tokenizer)
    messages = [{"role": "user", "content": "Who are you?"}]
    ids = question_ids(model.tokenizer, messages)
    (found,) = alternatives(model, wanted(messages=messages))
    logits = model.model(torch.tensor([ids])).logits[0, -1]
    assert found["alternatives"][0]["id"] == int(logits.argmax())


@pytest.mark.parametrize("answer", [written, alternatives])
def test_tokens_of_another_model_are_refused(model, answer):
    with pytest.raises(ValueError, match="vocabulary has 257: it was written by another model"):
        list(answer(model, wanted(prompt="Once", fixed=[257])))


def test_a_text_longer_than_the_window_is_written_and_said(model):
    fixed = [70 + i % 20 for i in range(140)]
    start, tokens, end = parts(written(model, wanted(prompt="Once", fixed=fixed, score_fixed=True)))
    assert [piece["probability"] is None for piece in start["fixed"]].count(True) == 13
    assert len(tokens) <= 20 and "longer than the model's window of 128" in end["note"]
