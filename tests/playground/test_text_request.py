"""What a page asks for, checked: pytest tests/playground/test_text_request.py"""

import json

import pytest

from gpt2ft.generation.config import Sampling
from gpt2ft.playground.text_request import TextRequest

DEFAULTS = Sampling(temperature=0.7, stop_strings=("end",))


def read(**values):
    return TextRequest.from_json(json.dumps(values).encode(), DEFAULTS)


def test_what_is_not_named_is_as_it_was_given_on_the_command_line():
    found = read()
    assert (found.model, found.prompt, found.messages, found.fixed) == (0, "", [], [])
    assert found.seed is None and found.sampling == DEFAULTS and not found.score_fixed


def test_everything_can_be_named():
    settings = {"temperature": 1, "top_k": 3, "do_sample": False, "stop_strings": ["\n"]}
    found = read(model=1, prompt="Once", fixed=[3, 4], seed=7, settings=settings, score_fixed=True)
    assert (found.model, found.prompt, found.fixed, found.seed) == (1, "Once", [3, 4], 7)
    assert found.sampling == Sampling(
        temperature=1.0, top_k=3, do_sample=False, stop_strings=("\n",)
    )
    question = [{"role": "system", "content": "short"}, {"role": "user", "content": "Who?"}]
    assert read(messages=question).messages == question


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an object"),
        (b'{"text": "a"}', "an object with"),
        (b'{"prompt": 3}', "prompt is a text, not 3"),
        (b'{"prompt": "\\ud800"}', "half a character"),
        (b'{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "not both"),
        (b'{"messages": "a"}', "messages is a list"),
        (b'{"messages": []}', "end with a question"),
        (b'{"messages": [{"role": "assistant", "content": "b"}]}', "end with a question"),
        (b'{"messages": [{"role": "root", "content": "b"}]}', "one of system, user"),
        (b'{"messages": [{"role": "user", "content": 1}]}', "content of a message is a text"),
        (b'{"messages": [{"role": "user"}]}', "role and content"),
        (b'{"fixed": [-1]}', "token ids"),
        (b'{"fixed": [1.0]}', "token ids"),
        (b'{"fixed": [true]}', "token ids"),
        (b'{"fixed": [99999999999]}', "token ids"),
        (b'{"seed": -1}', "seed is -1"),
        (b'{"seed": 9223372036854775808}', "seed is 9223372036854775808"),
        (b'{"seed": true}', "seed is a whole number, not true"),
        (b'{"model": "0"}', "model is a whole number"),
        (b'{"settings": []}', "settings is an object"),
        (b'{"settings": {"seed": 1}}', "seed is no setting"),
        (b'{"settings": {"temperature": NaN}}', "temperature is nan"),
        (b'{"settings": {"temperature": -1}}', "temperature is -1"),
        (b'{"settings": {"temperature": "1"}}', "temperature is a number"),
        (b'{"settings": {"top_k": 1.5}}', "top_k is a whole number"),
        (b'{"settings": {"top_p": 2}}', "top_p is 2"),
        (b'{"settings": {"max_new_tokens": 100000000}}', "max_new_tokens is 100000000"),
        (b'{"settings": {"do_sample": 1}}', "do_sample is true or false"),
        (b'{"settings": {"bad_words": "a"}}', "bad_words is a list of texts"),
    ],
)
def test_what_is_wrong_is_said(body, words):
    with pytest.raises(ValueError, match=r"^[^\n]{1,300}$") as error:
        TextRequest.from_json(body, DEFAULTS)
    assert words in str(error.value)
