"""pytest tests/evaluation/test_copies.py"""

import json

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft import load_corpus
from gpt2ft.evaluation.copies import (
    NGRAMS,
    TrainingText,
    Written,
    measure_copies,
    pieces_of,
    read_samples,
    tokens_of,
)
from tests.support.stores import END, few, of_rows
from tests.support.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()  # a token is a byte, of these texts a character
TEXTS = st.text("ab", min_size=1, max_size=60)
PASSAGE = "the planted passage, é and all, of which every word counts"


def of_texts(*texts):
    return Dataset.from_dict({"text": list(texts)})


def naive(text, documents):
    """The length of the longest span of a text that a document has, by trying all."""
    spans = (text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1))
    return max((len(span) for span in spans if any(span in d for d in documents)), default=0)


@few
@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
def test_what_is_found_is_what_a_naive_search_finds(documents, texts, held_out):
    training = TrainingText(of_texts(*documents), TOKENIZER)
    store = tokens_of(of_texts(held_out), TOKENIZER)
    result = measure_copies([Written("", t) for t in texts], training, TOKENIZER, store)
    longest = [naive(text, documents) for text in texts]
    for text, expected, found in zip(texts, longest, result["samples"], strict=True):
        assert found["longest_tokens"] == found["longest_characters"] == expected
        assert len(found["longest_text"]) == expected and found["longest_text"] in text
        if expected:
            _, row, _, at = found["place"].split()
            assert documents[int(row)][int(at) :].startswith(found["longest_text"])
    assert result["model"]["median_longest"] == np.median(longest)
    assert result["model"]["largest_longest"] == max(longest)
    assert result["leakage"]["longest_tokens"] == naive(held_out, documents)
    assert result["train_tokens"] == sum(map(len, documents)) + len(documents)
    for part, its in (("model", texts), ("leakage", [held_out])):
        for n in NGRAMS:
            grams = [text[i : i + n] for text in its for i in range(len(text) - n + 1)]
            known = [any(gram in document for document in documents) for gram in grams]
            share = result[part]["overlap"][str(n)]
            assert share == (np.mean(known) if grams else None)


def words(seed, n):
    draw = np.random.default_rng(seed)
    letters = ["".join(chr(97 + c) for c in draw.integers(0, 26, 5)) for _ in range(n)]
    return "".join(word + (" " if i % 9 else "\n") for i, word in enumerate(letters))


def test_a_planted_passage_is_found_with_its_place(tmp_path):
    """In a file of many pieces, after others, with characters of more than one byte before it."""
    before, after = "é—" + words(0, 9000), words(1, 3000)
    for name, text in (("a.txt", words(2, 50)), ("b.txt", before + PASSAGE + after)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    corpus = load_corpus(train_file=files, validation_split_percentage=0)
    assert len(corpus.train) > 3
    training = TrainingText(corpus.train, TOKENIZER, files=files)
    sample = Written("PASSAGE", f"QQ{PASSAGE}QQ")
    held_out = tokens_of(of_texts(words(3, 500)), TOKENIZER)
    result = measure_copies([sample, Written("", "QQQ")], training, TOKENIZER, held_out)
    first, second = result["samples"]
    assert (first["prompt"], first["text"]) == sample
    assert first["longest_text"] == PASSAGE
    assert first["longest_tokens"] == len(PASSAGE.encode())
    assert first["longest_characters"] == len(PASSAGE)
    line = before.count("\n") + 1
    assert first["place"] == f"{tmp_path}/b.txt line {line} character {len(before)}"
    assert (second["longest_tokens"], second["place"], second["overlap"]["5"]) == (0, None, None)
    assert result["human"]["largest_longest"] < 20 < result["model"]["largest_longest"]
    # The same in tables, whose documents are rows.
    rows = TrainingText(of_texts("one", "two " + PASSAGE), TOKENIZER, files=["rows.jsonl"])
    found = measure_copies([sample], rows, TOKENIZER, None)
    assert found["samples"][0]["place"] == "row 1 character 4"
    assert (found["human"], found["leakage"]) == (None, None)


def test_the_prompt_is_not_counted():
    """Not where it is a copy, and not as the beginning of a span that goes on in what follows."""
    training = TrainingText(of_texts(PASSAGE), TOKENIZER)
    sample = Written(PASSAGE[:30], PASSAGE[30:40] + "QQQ")
    (found,) = measure_copies([sample], training, TOKENIZER, None)["samples"]
    assert (found["longest_tokens"], found["longest_text"]) == (10, PASSAGE[30:40])


def test_no_span_and_no_ngram_goes_from_document_to_document():
    training = TrainingText(of_texts("abcdef", "ghijkl"), TOKENIZER)
    held_out = tokens_of(of_texts("abcdef", "ghijkl"), TOKENIZER)
    leak = measure_copies([Written("", "abcdefghijkl")], training, TOKENIZER, held_out)["leakage"]
    assert leak["longest_tokens"] == 6
    assert leak["overlap"] == {"5": 1.0, "10": None, "20": None}


def test_a_passage_that_leaks_is_found_whole():
    draw = np.random.default_rng(0)
    train, held_out = ("".join(map(chr, draw.integers(97, 123, 5000))) for _ in range(2))
    held_out = held_out[:700] + train[100:2100] + held_out[700:]
    training = TrainingText(of_texts(train), TOKENIZER)
    result = measure_copies(
        [Written("", train[:50])], training, TOKENIZER, tokens_of(of_texts(held_out), TOKENIZER)
    )
    assert result["leakage"]["longest_text"] in held_out
    assert 2000 <= result["leakage"]["longest_tokens"] < 2006
    assert abs(result["leakage"]["overlap"]["20"] - 1981 / 6981) < 0.01


def test_pieces_are_of_one_document_where_there_is_room():
    store = of_rows([[1, 2, END], [3] * 30 + [END]])
    assert {tuple(piece) for piece in pieces_of(store, [9] * 20, [END], seed=0)} == {(3,) * 9}
    assert [len(piece) for piece in pieces_of(store, [34, 0, 3], [END], seed=0)] == [34, 0, 3]
    starts = [list(pieces_of(store, [2] * 9, [END], seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(starts[0], starts[1]) and not np.array_equal(starts[0], starts[2])


def test_samples_that_are_longer_than_the_held_out_text():
    training = TrainingText(of_texts(PASSAGE), TOKENIZER)
    held_out = tokens_of(of_texts("short"), TOKENIZER)
    result = measure_copies([Written("", PASSAGE)], training, TOKENIZER, held_out)
    assert result["human"] is None and result["leakage"]["longest_tokens"] > 0


def test_samples_from_files(tmp_path):
    path = tmp_path / "samples.jsonl"
    lines = [{"prompt": "a", "text": "b", "seed": 1}, {"step": 3, "text": ""}]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert read_samples(str(path)) == [("a", "b"), ("", "")]
    for wrong, message in (
        ('{"prompt": "a"}', "line 1 has no text, write"),
        ("[1]", "record 1 has no text"),
        ('{"text": "\\ud800"}', "has half a character"),
        ("\n", "has no samples"),
        ("{", "is no JSON"),
    ):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_samples(str(path))
    text = tmp_path / "text.txt"
    text.write_bytes("é\nb".encode())
    assert read_samples(str(text)) == [("", "é\nb")]
    text.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not UTF-8, byte 0"):
        read_samples(str(text))
