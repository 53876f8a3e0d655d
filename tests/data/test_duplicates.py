"""pytest tests/data/test_duplicates.py"""

import json

import pytest

from gpt2ft import load_corpus


def test_of_equal_records_the_first_is_kept_before_any_is_held_out(tmp_path):
    path = tmp_path / "a.jsonl"
    words = [f"text {n % 40}" for n in range(100)]
    path.write_text("".join(json.dumps({"text": w}) + "\n" for w in words), encoding="utf-8")
    corpus = load_corpus(train_file=str(path), validation_split_percentage=25, deduplicate=True)
    kept = [*corpus.train["text"], *corpus.validation["text"]]
    assert sorted(kept) == sorted(set(words))
    assert corpus.notes == ["60 of 100 documents left out, equal to an earlier one"]
    in_order = load_corpus(train_file=str(path), validation_split_percentage=0, deduplicate=True)
    assert list(in_order.train["text"]) == list(dict.fromkeys(words))


def test_of_equal_text_files_the_first_is_kept(tmp_path):
    for name, text in (("a.md", "one"), ("b.md", "two"), ("c.txt", "one"), ("d.md", "three")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    corpus = load_corpus(train_file=str(tmp_path), validation_split_percentage=0, deduplicate=True)
    assert list(corpus.train["text"]) == ["one", "two", "three"]
    assert corpus.notes == ["1 of 4 files left out, equal to an earlier one"]


@pytest.mark.parametrize("lines", [True, False])
def test_lines_are_documents_where_they_are_rows(lines, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a\nb\na\n", encoding="utf-8")
    corpus = load_corpus(
        train_file=str(path), validation_split_percentage=0, deduplicate=True, lines=lines
    )
    assert list(corpus.train["text"]) == (["a", "b"] if lines else ["a\nb\na\n"])
