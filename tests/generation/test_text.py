"""pytest tests/generation/test_text.py"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft import Continuation, generate, index_text, stream
from gpt2ft.generation.sampling import generate_tokens
from gpt2ft.generation.text import TextDecoder, _Writer, encode_prompt, window_note
from tests.support.settings import with_settings
from tests.support.tiny import PASSAGE, byte_tokenizer, parrot

generate = with_settings(generate)
generate_tokens = with_settings(generate_tokens)
stream = with_settings(stream)


def test_characters_are_never_split(tokenizer):
    """One token a byte: nothing comes until a character is whole."""
    text = "naïve — 🙂 done"
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(pieces) == text and "�" not in "".join(pieces)
    assert pieces.count("") == len(text.encode()) - len(text)
    assert decoder.flush() == ""


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer):
    decoder = TextDecoder(tokenizer)
    for token in tokenizer("a🙂")["input_ids"][:-1]:
        decoder.push(token)
    assert decoder.flush() == "�"


def test_spaces_between_words_survive_a_sentencepiece_tokenizer():
    """Llama's decoder strips the space before the first token; the prompt's end prevents it."""
    import tokenizers
    from tokenizers import decoders, models

    vocab = {"<unk>": 0, "▁once": 1, "▁upon": 2, "▁a": 3, "▁time": 4}
    words = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.decoder = decoders.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    decoder = TextDecoder(tokenizer, [1, 2])
    assert [decoder.push(token) for token in (3, 4)] == [" a", " time"]


def test_stream_is_the_text_of_generate(model, tokenizer):
    model.eval()
    settings = {"max_new_tokens": 40, "temperature": 0.9, "top_k": 40}
    ids = tokenizer("a cat")["input_ids"]
    steps = generate_tokens(model, [ids], seeds=[3], eos_token_id=0, **settings)
    tokens = [int(step.tokens) for step in steps]
    text = "".join(stream(model, tokenizer, "a cat", seed=3, **settings))
    assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(text) > 10


def test_an_empty_prompt_starts_from_end_of_text(tokenizer):
    assert encode_prompt(tokenizer, "") == [0]
    assert encode_prompt(tokenizer, "a") == tokenizer("a")["input_ids"]


def test_bad_words_are_never_written(model, tokenizer):
    """Alone and after a space, in texts that would have them."""
    settings = {"max_new_tokens": 300, "temperature": 3.0, "seed": 1}
    usual = "".join(stream(model.eval(), tokenizer, "a", **settings))
    letters = [letter for letter in "abcdefgh" if letter in usual[1:]]
    assert len(letters) > 2
    text = "".join(stream(model, tokenizer, "a", bad_words=[*letters, ""], **settings))
    assert not set(letters) & set(text)


PROMPTS = ["a cat", "The quick brown fox", "", "z"]


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.2, "top_k": 30}])
def test_each_prompt_gives_the_same_text_alone_and_in_any_batch(settings, model, tokenizer):
    """In their order, a seed for each, whatever the size of the batch."""
    model.eval()
    settings = {"max_new_tokens": 90, **settings}
    alone = [next(generate(model, tokenizer, p, seed=i, **settings)) for i, p in enumerate(PROMPTS)]
    assert [text.prompt for text in alone] == PROMPTS
    for size in (1, 2, 3, 8):
        texts = list(
            generate(model, tokenizer, PROMPTS, seed=range(4), batch_size=size, **settings)
        )
        for text, other in zip(texts, alone, strict=True):
            assert math.isclose(text.log_probability, other.log_probability, rel_tol=1e-4)
            assert replace(text, log_probability=0) == replace(other, log_probability=0)


def test_several_texts_of_a_prompt(model, tokenizer):
    """Each with the next seed; and without one, each time others."""
    model.eval()
    settings = {"max_new_tokens": 30, "num_return_sequences": 3, "batch_size": 2}
    texts = list(generate(model, tokenizer, ["a", "b"], seed=5, **settings))
    assert [(text.prompt, text.seed) for text in texts] == [(p, s) for p in "ab" for s in (5, 6, 7)]
    assert len({text.text for text in texts[:3]}) == 3
    (third,) = generate(model, tokenizer, "a", seed=7, max_new_tokens=30)
    assert third.text == texts[2].text
    fresh = [next(generate(model, tokenizer, "a", max_new_tokens=30)) for _ in range(2)]
    assert fresh[0].seed != fresh[1].seed and fresh[0].text != fresh[1].text
    (again,) = generate(model, tokenizer, "a", seed=fresh[0].seed, max_new_tokens=30)
    assert again == fresh[0]


def test_why_a_text_ended(model, tokenizer):
    """End of text at the third token of some text; a stop string; or the number of tokens."""
    model.eval()
    (free,) = generate(model, tokenizer, "a cat", seed=1, max_new_tokens=12)
    assert (free.stop_reason, len(free.tokens)) == ("max_new_tokens", 12)
    model.generation_config.eos_token_id = free.tokens[2]
    (ended,) = generate(model, tokenizer, "a cat", seed=1, max_new_tokens=12)
    n = free.tokens.index(free.tokens[2]) + 1
    assert (ended.stop_reason, ended.tokens) == ("end_of_text", free.tokens[:n])
    assert ended.text == tokenizer.decode(free.tokens[: n - 1])
    model.generation_config.eos_token_id = 0
    stop = free.text[3:5]
    (cut,) = generate(model, tokenizer, "a cat", seed=1, max_new_tokens=12, stop_strings=[stop])
    assert (cut.stop_reason, cut.text) == ("stop_string", free.text[: free.text.find(stop)])


@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_stop_strings_end_where_those_of_transformers_do(kind, tokenizer, request):
    """Which keep the stop string; ours is in the tokens, not in the text."""
    model = request.getfixturevalue(kind)().eval()
    settings = {"max_new_tokens": 60, "do_sample": False, "no_repeat_ngram_size": 1}
    ids = tokenizer("a cat", return_tensors="pt")["input_ids"]
    free = model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=300, **settings)
    letters = [tokenizer.decode(token) for token in free[0, 5:].tolist()]
    stops = ["".join(pair) for pair in pairwise(letters) if "".join(pair).isascii()]
    assert len(stops) > 2
    for stop in stops[:8]:
        (ours,) = generate(model, tokenizer, "a cat", stop_strings=[stop, "xyzzy"], **settings)
        theirs = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            tokenizer=tokenizer,
            stop_strings=[stop, "xyzzy"],
            eos_token_id=300,
            **settings,
        )[0, 5:].tolist()
        assert ours.tokens == theirs
        assert ours.text + stop == tokenizer.decode(theirs)


ALPHABET = st.text("ab\u00e9\U0001f642", max_size=12)


@given(ALPHABET, st.lists(ALPHABET, max_size=3))
def test_nothing_of_a_stop_string_is_ever_shown(text, stops):
    """However it is split into tokens (here bytes): up to the stop string that is found first, as
    the text grows; and what is shown is never taken back."""
    tokenizer = byte_tokenizer()
    continuation = Continuation("", 0, [0])
    writer = _Writer(tokenizer, continuation, stops, [0])
    pieces = []
    for token in tokenizer(text)["input_ids"]:
        pieces.append(writer.push(token, 0.0))
    pieces.append(writer.finish())
    starts = ([text[:n].find(stop) for stop in stops if stop] for n in range(len(text) + 1))
    found = next(
        (min(s for s in each if s >= 0) for each in starts if max(each, default=-1) >= 0), None
    )
    assert "".join(pieces) == continuation.text == text[:found]
    assert continuation.stop_reason == ("max_new_tokens" if found is None else "stop_string")


def test_a_text_past_the_window_is_said_to_be(make_model, tokenizer):
    model = make_model(n_positions=1024).eval()
    (text,) = generate(model, tokenizer, "a" * 1000, seed=1, max_new_tokens=60)
    assert window_note(model, text) == (
        "the text is longer than the model's window of 1,024 tokens, from there on it sees the "
        "newest 512 to 1,024"
    )
    (text,) = generate(model, tokenizer, "a" * 1000, seed=1, max_new_tokens=24)
    assert len(text.tokens) == 24 and window_note(model, text) == ""


@pytest.fixture(scope="module")
def learned():
    """A tokenizer, and a model that has learned the passage by heart."""
    tokenizer = byte_tokenizer()
    return tokenizer, parrot(tokenizer)


@pytest.mark.parametrize("limit", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_that_would_copy_does_not_beyond_the_limit(limit, temperature, learned):
    """Drawn and greedily, in a batch as alone, also where the copy begins in the prompt."""
    tokenizer, model = learned
    corpus = index_text(["Something else.", PASSAGE], tokenizer)
    prompts = ["It was a b", "day", "", PASSAGE[:30]]
    settings = {"max_new_tokens": 60, "temperature": temperature, "seed": 3}

    def longest(text):
        """Of the tokens that were drawn, with what is before them; the prompt may hold more."""
        known = max(0, len(text.prompt_ids) - limit)
        return corpus.longest((text.prompt_ids + text.tokens)[known:]).length

    free = list(generate(model, tokenizer, prompts, **settings))
    assert max(map(longest, free)) > 40
    texts = list(generate(model, tokenizer, prompts, max_verbatim=limit, corpus=corpus, **settings))
    assert [longest(text) for text in texts if text.prompt] == [limit] * 3
    assert max(map(longest, texts)) <= limit
    alone = [
        "".join(stream(model, tokenizer, prompt, max_verbatim=limit, corpus=corpus, **settings))
        for prompt in prompts
    ]
    assert [text.text for text in texts] == alone


def test_a_limit_without_a_corpus_and_one_that_leaves_nothing(learned):
    tokenizer, model = learned
    with pytest.raises(ValueError, match="max_verbatim needs the text that is not to be copied"):
        list(generate(model, tokenizer, ["a"], max_verbatim=3))
    everything = index_text([bytes(range(256)).decode("latin-1")], tokenizer)
    everything.followers = lambda ids: range(257)
    with pytest.raises(ValueError, match="fewer --bad_words, or a larger --max_verbatim"):
        list(generate(model, tokenizer, ["a"], max_verbatim=1, corpus=everything))


def test_the_end_of_text_is_no_copy(learned):
    """Where the corpus ends a text may end too, however much of it is a copy."""
    tokenizer, _ = learned
    corpus = index_text(["abc", "abd"], tokenizer)
    following = [tokenizer.decode([token]) for token in corpus.followers(tokenizer("ab").input_ids)]
    assert following == ["c", "d"]
    assert corpus.followers(tokenizer("bc").input_ids).tolist() == []
