"""pytest tests/data/test_corpus.py"""

import json
import os

import pytest
from datasets import Dataset

from gpt2ft import load_corpus, tokenize
from gpt2ft.data.corpus import texts_of
from gpt2ft.data.text_files import PIECE_CHARACTERS
from gpt2ft.models.loading import train_tokenizer
from gpt2ft.system.hub import HubUnavailableError
from tests.support.hub_folder import make_hub_folder

LINES = ["first line\n", "\n", "second — ünï\n", "third"]


def texts(documents):
    return list(documents["text"])


def all_of(path, **settings):
    return load_corpus(train_file=[str(path)], validation_split_percentage=0, **settings).train


@pytest.mark.parametrize("name", ["a.txt", "a.raw", "README", "a.first9lines"])
def test_text_files_of_any_ending_are_one_document(name, tmp_path):
    path = tmp_path / name
    path.write_text("".join(LINES), encoding="utf-8")
    documents = all_of(path)
    assert texts(documents) == ["".join(LINES)]
    assert (list(documents["first"]), list(documents["last"])) == ([True], [True])


def test_without_packing_a_line_is_a_row(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    rows = all_of(path, lines=True)
    assert texts(rows) == [line.rstrip("\n") for line in LINES]
    assert all(rows["first"]) and all(rows["last"])


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree")
    assert texts(all_of(path)) == ["one\ntwo\n\nthree"]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_records(ending, tmp_path):
    path = tmp_path / f"rows.{ending}"
    rows = Dataset.from_dict({"text": ["one", "two\nlines", "ünï"], "n": [1, 2, 3]})
    if ending == "csv":
        rows.to_csv(path, index=False)
    elif ending == "parquet":
        rows.to_parquet(path)
    elif ending == "json":
        path.write_text(json.dumps([dict(row) for row in rows]), encoding="utf-8")
    else:
        rows.to_json(path)
    documents = all_of(path)
    assert texts(documents) == ["one", "two\nlines", "ünï"]
    assert documents.column_names == ["text"]


def test_the_text_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"story": "a", "n": 1}\n{"story": "b", "n": 2}\n', encoding="utf-8")
    assert texts(all_of(path)) == ["a", "b"]  # the only one of strings
    path.write_text('{"title": "t", "story": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no column text; its columns: title, story"):
        all_of(path)
    assert texts(all_of(path, text_column="story")) == ["a"]
    with pytest.raises(ValueError, match="no column body"):
        all_of(path, text_column="body")


def test_several_files_and_globs_in_order(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    corpus = load_corpus(
        train_file=[str(tmp_path / "c.txt"), str(tmp_path / "[ab].txt")],
        validation_split_percentage=0,
    )
    assert texts(corpus.train) == ["c", "a", "b"]
    assert all(corpus.train["first"]) and corpus.validation is None


def test_a_file_is_no_glob(tmp_path):
    """datasets would take `part[1].jsonl` for `part1.jsonl`."""
    for name, text in (("part[1].jsonl", "wanted"), ("part1.jsonl", "other")):
        (tmp_path / name).write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    assert texts(all_of(tmp_path / "part[1].jsonl")) == ["wanted"]


def test_words_of_a_csv_file_that_look_like_nothing(tmp_path):
    words = ["None", "NA", "null", "nan", "n/a"]
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(words) + "\n", encoding="utf-8")
    assert texts(all_of(tmp_path / "a.csv")) == words
    (tmp_path / "b.csv").write_text("text\n1\n2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no strings in its column text"):
        all_of(tmp_path / "b.csv")


def test_no_corpus_at_all():
    with pytest.raises(ValueError, match="no corpus"):
        load_corpus()


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.txt"):
        all_of(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match=r"has no file that ends in \.txt"):
        all_of(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="is empty"):
        all_of(tmp_path / "empty.txt")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nnonsense\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.jsonl line 2 is no JSON, Expecting value"):
        all_of(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("offset", [0, 5, (1 << 20) - 1, (1 << 20) + 7])
def test_not_utf8_names_the_byte(offset, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * offset + b"\xe9 la mode, bien s\xfbr")
    with pytest.raises(ValueError, match=rf"not UTF-8, byte {offset} is 0xe9"):
        all_of(path)


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before", encoding="utf-8")
    assert texts(all_of(path)) == ["before"]
    path.write_text("after!", encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert texts(all_of(path)) == ["after!"]


def prose(n_characters):
    words = [
        "word",
        "a\n\nparagraph",
        "  spaces",
        "tabs\tand\n",
        "ünïcode",
        "it's",
        "3.14",
        "\n\n\n",
    ]
    text = " ".join(words[(i * i + i // 7) % len(words)] for i in range(n_characters // 5))
    return text[:n_characters]


def test_a_long_document_in_pieces_has_the_tokens_of_the_whole(tmp_path):
    """Cut where GPT-2's pre-tokenizer cuts: a BPE with merges across spaces gives the same ids."""
    text = prose(8 * PIECE_CHARACTERS)
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    pieces = all_of(path)
    assert len(pieces) > 3
    assert "".join(texts(pieces)) == text
    assert list(pieces["first"]) == [True] + [False] * (len(pieces) - 1)
    assert list(pieces["last"]) == [False] * (len(pieces) - 1) + [True]
    bpe = train_tokenizer(texts_of(pieces), vocab_size=500)
    store = tokenize(pieces, bpe)
    expected = [*bpe(text)["input_ids"], bpe.eos_token_id]
    assert len(expected) < len(text) / 2
    assert store.tokens(0, store.n_tokens).tolist() == expected
    assert store.document_starts.tolist() == [-1]


def test_the_same_for_a_tokenizer_that_puts_a_space_before_every_text(tmp_path):
    """As SentencePiece does: the piece's own space would then be one too many."""
    import tokenizers
    import transformers

    sentence = "a cat sat on the mat and looked at another cat on another mat"
    words = sentence.split(" ")
    text = " ".join(words[(i * i) % len(words)] for i in range(20_000))
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    unigram = tokenizers.Tokenizer(tokenizers.models.BPE())
    unigram.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, show_progress=False)
    unigram.train_from_iterator(["▁" + word for word in words] * 5, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=unigram)
    pieces = all_of(path)
    assert len(pieces) > 2
    store = tokenize(pieces, tokenizer, separator=False)
    expected = tokenizer(text)["input_ids"]
    cat = tokenizer("cat")["input_ids"]
    assert tokenizer("a cat")["input_ids"][-len(cat) :] == cat
    assert store.tokens(0, store.n_tokens).tolist() == expected


def test_text_without_spaces_is_cut_all_the_same(tmp_path):
    path = tmp_path / "dna.txt"
    path.write_text("ACGT" * PIECE_CHARACTERS, encoding="utf-8")
    pieces = texts(all_of(path))
    assert len(pieces) > 1 and "".join(pieces) == "ACGT" * PIECE_CHARACTERS


def test_the_end_of_each_text_is_held_out(tmp_path):
    lines = [f"line {i}\n" for i in range(200)]
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    corpus = load_corpus(train_file=[str(tmp_path / "*.txt")], validation_split_percentage=10)
    for train, held_out in zip(texts(corpus.train), texts(corpus.validation), strict=True):
        assert train + held_out == "".join(lines)
        assert train.endswith("\n")
        assert len(held_out) == pytest.approx(0.1 * len(train + held_out), abs=10)


@pytest.mark.parametrize(
    "text",
    ["one line without an end " * 40, "short\n" + "and then a very long line " * 40, "a b\r" * 90],
    ids=["one line", "a long last line", "carriage returns"],
)
def test_something_is_held_out_of_any_text_with_words(text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    corpus = load_corpus(train_file=[str(path)])
    joined = "".join(texts(corpus.train) + texts(corpus.validation))
    assert joined == text.replace("\r", "\n")
    assert len(texts(corpus.validation)) == 1


def test_nothing_can_be_held_out_of_a_single_word(tmp_path):
    (tmp_path / "a.txt").write_text("word")
    with pytest.raises(ValueError, match="no line or word to hold out, name --validation_file"):
        load_corpus(train_file=[str(tmp_path / "a.txt")])


def test_a_glob_over_records_holds_rows_out_too(tmp_path):
    rows = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(40))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    for pattern in ("rows.jsonl", "*.json*", "r*"):
        corpus = load_corpus(train_file=[str(tmp_path / pattern)])
        assert (len(corpus.train), len(corpus.validation)) == (38, 2), pattern


def test_rows_held_out_are_drawn_with_the_seed_or_the_last(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [f"row {i}" for i in range(100)]
    path.write_text("".join(json.dumps({"text": r}) + "\n" for r in rows), encoding="utf-8")

    def held_out(**settings):
        corpus = load_corpus(train_file=[str(path)], **settings)
        assert sorted(texts(corpus.train) + texts(corpus.validation)) == sorted(rows)
        assert len(corpus.validation) == 5
        return texts(corpus.validation)

    assert held_out(seed=1) == held_out(seed=1) != held_out(seed=2)
    assert held_out(contiguous=True) == rows[-5:]


def test_too_few_rows_to_hold_any_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 3, encoding="utf-8")
    assert len(load_corpus(train_file=[str(path)]).validation) == 1
    path.write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="5 percent of 1 rows"):
        load_corpus(train_file=[str(path)])


def test_validation_files(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text", encoding="utf-8")
    corpus = load_corpus(
        train_file=[str(tmp_path / "train.txt")], validation_file=[str(tmp_path / "valid.txt")]
    )
    assert (texts(corpus.train), texts(corpus.validation)) == (["train text"], ["valid text"])


def test_hub_data_with_a_slice_and_its_validation_split(tmp_path):
    splits = {"train": [f"row {i}" for i in range(11)], "validation": ["v"], "test": ["t"]}
    make_hub_folder(tmp_path / "wikitext", splits)
    corpus = load_corpus(
        dataset_name=str(tmp_path / "wikitext"),
        dataset_config_name="wikitext-2-raw-v1",
        dataset_split="train[:50%]",
    )
    n = len(corpus.train)
    assert n in (5, 6) and texts(corpus.train) == splits["train"][:n]
    assert texts(corpus.validation) == ["v"]


def test_folders_of_one_name_are_told_apart_and_changes_are_seen(tmp_path):
    """datasets' own cache goes by the last part of the path alone."""
    for rows in (["one"] * 5, ["two"] * 5, ["three"] * 6):
        folder = tmp_path / str(len(rows)) / "wikitext"
        make_hub_folder(folder, {"train": rows, "validation": rows[:1]})
        corpus = load_corpus(dataset_name=str(folder), dataset_config_name="wikitext-2-raw-v1")
        assert (texts(corpus.train), texts(corpus.validation)) == (rows, rows[:1])


def test_hub_data_without_a_validation_split(tmp_path):
    make_hub_folder(tmp_path / "set", {"train": [f"row {i}" for i in range(40)]})
    corpus = load_corpus(
        dataset_name=str(tmp_path / "set"), dataset_config_name="wikitext-2-raw-v1"
    )
    assert (len(corpus.train), len(corpus.validation)) == (38, 2)
    with pytest.raises(ValueError, match="split"):
        load_corpus(dataset_name=str(tmp_path / "set"), dataset_split="nonsense")


def test_training_on_the_validation_split_does_not_evaluate_on_it(tmp_path):
    make_hub_folder(tmp_path / "set", {"validation": [f"row {i}" for i in range(40)]})
    rows = {"train": ["t"] * 40, "validation": [f"row {i}" for i in range(40)]}
    make_hub_folder(tmp_path / "both", rows)
    for name, split, sizes in (
        ("set", "validation[:90%]", (34, 2)),
        ("both", "train+validation", (76, 4)),
        ("both", "validation[:50%]+train", (57, 3)),
    ):
        corpus = load_corpus(dataset_name=str(tmp_path / name), dataset_split=split)
        assert (len(corpus.train), len(corpus.validation)) == sizes
        assert not (set(texts(corpus.train)) & set(texts(corpus.validation))) - {"t"}


def test_the_hub_out_of_reach():
    with pytest.raises(HubUnavailableError, match="is not on this machine"):
        load_corpus(dataset_name="Salesforce/wikitext", dataset_config_name="wikitext-2-raw-v1")


def test_the_built_in_text():
    corpus = load_corpus(dataset_name="python-reference", validation_split_percentage=10)
    assert len(corpus.train) + len(corpus.validation) > 50
    assert sum(map(len, texts(corpus.train))) > 300_000


def test_another_configuration_in_the_cache_is_not_the_one_asked_for(monkeypatch):
    """Then datasets does not say that it cannot be reached, but that it has no such cache."""

    def refuse(*_, **__):
        raise ValueError("Couldn't find cache for wikitext for config 'x'")

    monkeypatch.setattr("datasets.load_dataset_builder", refuse)
    with pytest.raises(HubUnavailableError, match="is not on this machine"):
        load_corpus(dataset_name="Salesforce/wikitext", dataset_config_name="x")


def test_a_fault_of_the_validation_split_is_not_taken_for_none(tmp_path, monkeypatch):
    make_hub_folder(tmp_path, {"train": ["a", "b"] * 20, "validation": ["c"]})
    monkeypatch.setattr("gpt2ft.data.reader.choose_column", choose_none_of("validation"))
    with pytest.raises(ValueError, match="validation has no such column"):
        load_corpus(dataset_name=str(tmp_path), dataset_config_name="wikitext-2-raw-v1")


def choose_none_of(split):
    seen = []

    def choose(source, *_):
        seen.append(source)
        if len(seen) == 2:  # of train, then of validation
            raise ValueError(f"{split} has no such column")
        return "text"

    return choose


def test_one_file_may_be_named_without_a_list(tmp_path):
    (tmp_path / "a.txt").write_text("words " * 100)
    for name in (str(tmp_path / "a.txt"), tmp_path / "a.txt"):
        corpus = load_corpus(train_file=name, validation_split_percentage=0)
        assert texts(corpus.train) == ["words " * 100]


def test_a_list_of_texts_is_tokenized(tokenizer):
    assert tokenize(["ab", "c"], tokenizer).digest() == (
        tokenize(Dataset.from_dict({"text": ["ab", "c"]}), tokenizer).digest()
    )


def test_a_data_set_without_rows(tmp_path):
    Dataset.from_dict({"text": []}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none\.parquet has no records"):
        load_corpus(train_file=str(tmp_path / "none.parquet"), validation_split_percentage=0)


def test_of_many_text_files_whole_ones_are_held_out(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02d}.md").write_text(f"note {number}", encoding="utf-8")
    corpus = load_corpus(train_file=str(tmp_path), validation_split_percentage=10)
    train, held_out = texts(corpus.train), texts(corpus.validation)
    assert sorted(train + held_out) == sorted(f"note {number}" for number in range(40))
    assert len(held_out) == 4
    again = load_corpus(train_file=str(tmp_path), validation_split_percentage=10)
    other = load_corpus(train_file=str(tmp_path), validation_split_percentage=10, seed=7)
    assert texts(again.validation) == held_out != texts(other.validation)
    with pytest.raises(ValueError, match="99 percent of 40 files cannot be held out"):
        load_corpus(train_file=str(tmp_path), validation_split_percentage=99)


def test_files_of_several_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("text,n\none,1\ntwo,2\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("three\nfour\n", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "five"}\n', encoding="utf-8")
    rows = all_of(tmp_path)
    assert texts(rows) == ["three\nfour\n", "one", "two", "five"]  # texts come first
    assert set(rows["first"]) == set(rows["last"]) == {True}
    corpus = load_corpus(train_file=str(tmp_path), validation_split_percentage=50)
    assert sorted(texts(corpus.train) + texts(corpus.validation)) == [
        *("five", "four\n", "one", "three\n", "two")
    ]


def test_a_file_that_cannot_be_divided_is_trained_on_whole_among_others(tmp_path):
    (tmp_path / "a.txt").write_text("word", encoding="utf-8")
    (tmp_path / "b.txt").write_text("a line\n" * 10, encoding="utf-8")
    corpus = load_corpus(train_file=str(tmp_path), validation_split_percentage=10)
    assert texts(corpus.train) == ["word", "a line\n" * 9]
    assert texts(corpus.validation) == ["a line\n"]


def test_blank_files_among_others_are_no_error(tmp_path):
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    assert texts(all_of(tmp_path)) == [" \n", "text"]
