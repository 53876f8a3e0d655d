"""Six chat templates, from their published description: pytest tests/data/test_chat_template.py

A brute force decides what the mask must be: what a model is shown is written and tokenized for each
answer, without looking at the text of the whole.
"""

import json
from collections import Counter
from functools import partial

import pytest

from gpt2ft import Blocks, tokenize
from gpt2ft.data.batches import Rows
from gpt2ft.data.chat_template import (
    PLAIN_TEMPLATE,
    give_template,
    is_cut_by_turns,
    stop_tokens,
    turns,
)
from tests.support.chats import LLAMA_3_WORDS, TEMPLATES, as_rows, chat_tokenizer
from tests.support.tiny import byte_tokenizer

TALK = [
    {"role": "user", "content": "Hi, who are you?"},
    {"role": "assistant", "content": "I am a small model. Ünïcode: 日本."},
    {"role": "user", "content": "Say it again. "},
    {"role": "assistant", "content": "  It again.\n\nTwice."},
]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *TALK]
BY_TURNS = {"qwen-3", "phi", "llama-3"}  # the last by the tokenizer: two line ends are a token


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


def stored(tokenizer, *conversations, **settings):
    """The rows of the store: `(id, is learned)` for each token."""
    store = tokenize(as_rows(*conversations), tokenizer, **settings)
    rows = []
    for start, stop in zip(store.offsets[:-1], store.offsets[1:], strict=True):
        ids, marked = store.tokens(start, stop).tolist(), store.stored(start, stop).tolist()
        rows.append([(token, mark >= 0) for token, mark in zip(ids, marked, strict=True)])
    return rows


def brute_force(tokenizer, messages):
    """For each answer: the ids that are shown, and the text that is to be written after them."""
    found = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            shown = tokenizer.apply_chat_template(
                messages[:number], add_generation_prompt=True, return_dict=False
            )
            text = tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
            prompt = tokenizer.apply_chat_template(
                messages[:number], tokenize=False, add_generation_prompt=True
            )
            (stop,) = tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer))
            found.append((shown, text.removeprefix(prompt).partition(stop)[0] + stop))
    return found


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        *((name, TALK) for name in TEMPLATES),
        *((name, WITH_SYSTEM) for name in TEMPLATES if name != "mistral"),
    ],
)
def test_the_answers_alone_are_learned_token_by_token(name, messages):
    tokenizer = chat_tokenizer(name)
    rows = stored(tokenizer, messages)
    answers = []
    for row in rows:
        ids = [token for token, _ in row]
        begins = [i for i, (_, learned) in enumerate(row) if learned and not row[i - 1][1]]
        for begin in begins:
            end = next((i for i in range(begin, len(row)) if not row[i][1]), len(row))
            answers.append((ids[:begin], ids[begin:end]))
    expected = brute_force(tokenizer, messages)
    assert [shown for shown, _ in answers] == [shown for shown, _ in expected]
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    for (_, ids), (_, text) in zip(answers, expected, strict=True):
        assert decode(ids).strip(" ") == text.strip(" ")
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_that_are_cut_by_turns(name):
    tokenizer = chat_tokenizer(name)
    assert is_cut_by_turns(tokenizer) == (name in BY_TURNS)
    talk = [*TALK[:3], TALK[1]]
    assert len(stored(tokenizer, talk)) == (2 if name in BY_TURNS else 1)
    trims = name in ("gemma-3", "mistral")  # else the line end before it and the spaces are one
    assert len(stored(tokenizer, TALK)) == (1 if trims else 2)


def test_llama_3_with_words_cut_as_its_own_tokenizer_does():
    tokenizer = chat_tokenizer("llama-3")
    tokenizer.backend_tokenizer.pre_tokenizer = LLAMA_3_WORDS
    assert not is_cut_by_turns(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_that_ends_an_answer(name):
    tokenizer = chat_tokenizer(name)
    expected = {
        "chatml": "<|im_end|>",
        "llama-3": "<|eot_id|>",
        "qwen-3": "<|im_end|>",
        "gemma-3": "<end_of_turn>",
        "mistral": "</s>",
        "phi": "<|end|>",
    }
    assert tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer)) == [expected[name]]
    for row in stored(tokenizer, TALK[:2]):
        learned = [token for token, is_learned in row if is_learned]
        assert (
            stop_tokens(tokenizer)[0] == learned[-1]
        )  # after it a line end and the end of text at most


def test_a_model_without_a_template_gets_the_plain_one(tokenizer):
    assert give_template(tokenizer) and not give_template(tokenizer)
    (row,) = stored(tokenizer, WITH_SYSTEM)
    assert tokenizer.decode([token for token, _ in row]) == (
        "### System:\nBe brief.\n\n### User:\nHi, who are you?\n\n### Assistant:\n"
        "I am a small model. Ünïcode: 日本.<|endoftext|>\n\n### User:\nSay it again. \n\n"
        "### Assistant:\n  It again.\n\nTwice.<|endoftext|>"
    )
    assert tokenizer.decode([token for token, learned in row if learned]) == (
        "I am a small model. Ünïcode: 日本.<|endoftext|>  It again.\n\nTwice.<|endoftext|>"
    )
    assert stop_tokens(tokenizer) == [tokenizer.eos_token_id]
    assert tokenizer.chat_template == PLAIN_TEMPLATE


def test_all_of_a_conversation_may_be_learned():
    tokenizer = chat_tokenizer("chatml")
    (row,) = stored(tokenizer, TALK[:3] + TALK[1:2], train_on="prompt_and_answer")
    assert [learned for _, learned in row] == [False] + [True] * (len(row) - 1)


def test_an_answer_that_is_asked_for_in_other_words_than_it_begins_with():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'"
    )
    with pytest.raises(
        ValueError, match=r"asks for an answer with '<think>\\n', but answers begin"
    ):
        turns(tokenizer, TALK)


def test_a_system_message_that_is_only_there_when_an_answer_is_asked_for():
    with pytest.raises(ValueError, match=r"asks for an answer with ' ?Be brief"):
        turns(chat_tokenizer("mistral"), WITH_SYSTEM)


def test_a_conversation_that_a_template_does_not_take():
    with pytest.raises(ValueError, match=r"does not take .*Be brief.*System role not supported"):
        turns(chat_tokenizer("gemma-2"), WITH_SYSTEM)


def test_an_answer_of_nothing_is_refused(tokenizer):
    call = {"tool_calls": [{"function": {"name": "look"}}]}
    for answer in ({"content": ""}, {"content": " \n"}, {"content": "", **call}):
        talk = [TALK[0], {"role": "assistant", **answer}]
        with pytest.raises(ValueError, match=r"an empty answer, or .* tool_calls.*who are you"):
            tokenize(as_rows(talk), tokenizer)


def test_what_is_said_after_an_end_and_templates_that_take_other_talks(tokenizer):
    tokenizer.chat_template = PLAIN_TEMPLATE.replace("eos_token", "' ' + eos_token")
    assert stop_tokens(tokenizer) == [tokenizer.eos_token_id]
    tokenizer.chat_template = "{{ raise_exception('only rhymes') }}"
    assert stop_tokens(tokenizer) == [] and not is_cut_by_turns(tokenizer)


def test_the_date_in_a_template_does_not_change(monkeypatch):
    text = turns(chat_tokenizer("llama-3-dated"), TALK)[0].shown
    assert "Today Date: 26 Jul 2024" in text


def test_tools_reach_the_template():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "{{ tools | tojson }}" + tokenizer.chat_template
    rows = as_rows(TALK, tools=[{"name": "look"}])
    assert tokenizer.decode(tokenize(rows, tokenizer).tokens(0, 9)).startswith('[{"name": "look"')


@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("size", [64, 90, 300])
def test_packed_conversations_are_whole_and_lose_no_target(n, size):
    tokenizer = chat_tokenizer("chatml")
    talks = [
        [{"role": "user", "content": f"Number {i}" * (i % 5)}, {**TALK[1], "content": f"{i} " * i}]
        for i in range(1, n + 1)
    ]
    rows = stored(tokenizer, *talks)
    store = tokenize(as_rows(*talks), tokenizer)
    blocks = Blocks(store, size)
    assert max(blocks.lengths) <= size
    learned, short = [], [row for row in rows if len(row) <= size]
    for number in range(len(blocks)):
        sample = blocks[number]
        targets = sample["labels"] != -100
        assert (
            targets[1:].any() and (sample["input_ids"][targets] == sample["labels"][targets]).all()
        )
        learned += sample["input_ids"][targets].tolist()
        if len(rows) == len(short):  # then each begins at position 0
            begun = sum(position == 0 for position in sample.get("position_ids", range(size)))
            assert begun == len(set(blocks.documents(number)[targets].tolist()))
    expected = Counter(token for row in rows for token, is_learned in row if is_learned)
    # The first token of a part of a long conversation is lost, if nothing else in it is learned.
    assert (expected - Counter(learned)).total() <= sum(len(row) > size for row in rows)
    assert not Counter(learned) - expected
    assert blocks.n_tokens == sum(blocks.lengths)


def test_rows_whose_answer_is_cut_off_are_left_out():
    tokenizer = chat_tokenizer("chatml")
    long = [{"role": "user", "content": "word " * 99}, TALK[1]]
    store = tokenize(as_rows(TALK, long, TALK[:2]), tokenizer)
    rows = Rows(store, 60)
    assert len(rows) == 2 and all((rows[i]["labels"] != -100).any() for i in range(2))
    with pytest.raises(
        ValueError, match="in no conversation an answer begins within --block_size 60"
    ):
        Rows(tokenize(as_rows(long), tokenizer), 60)


def test_what_is_no_conversation_is_in_rows_of_its_own(tokenizer):
    with pytest.raises(ValueError, match="--row_separator none is for the lines of one text"):
        tokenize(as_rows(TALK), tokenizer, separator=False)


def test_conversations_are_json_that_can_be_read(tokenizer):
    (record,) = as_rows(TALK)["messages"]
    assert json.loads(record)["messages"] == TALK
