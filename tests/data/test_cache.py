"""What is kept of a corpus, and freed: pytest tests/data/test_cache.py"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest

from gpt2ft import load_corpus, tokenize
from gpt2ft.data import cache
from gpt2ft.data.token_store import FEATURES, _tokenize_batch
from tests.support.lines import LINES

ROOT = Path(__file__).parent.parent.parent

# If these fail, the form has changed of what is found again in a cache: raise the version, and
# write the new hash beside it. The old versions stay, so that none is used twice.
TEXTS = {1: "54f65f043df5b5d0"}
TOKENS = {1: "eff623ecf87bff79"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty cache of datasets; at the end nothing in it is in use."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    yield tmp_path / "datasets"
    cache._let_go(0)


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


def made(file, tokenizer):
    """A corpus of that file, read and tokenized."""
    corpus = load_corpus(train_file=str(file))
    return [tokenize(part, tokenizer) for part in (corpus.train, corpus.validation)]


def test_other_documents_of_the_same_files_need_another_version(place, tmp_path):
    text, records = tmp_path / "a.txt", tmp_path / "b.jsonl"
    words = " ".join(f"word{i}" for i in range(9000))  # more than a piece
    text.write_bytes(f"\ufeffline\r\n\n  two é 🙂\n{words}\n".encode())
    lines = [{"text": "one"}, {"text": None}, {"text": "é\n🙂"}, {"text": " "}] * 10
    records.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = []
    for file, as_lines in ((text, False), (text, True), (records, False)):
        corpus = load_corpus(train_file=str(file), lines=as_lines, validation_split_percentage=20)
        found += [corpus.train.to_list(), corpus.validation.to_list()]
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    assert digest == TEXTS[cache.TEXTS_VERSION], "raise TEXTS_VERSION in gpt2ft/data/cache.py"
    assert max(TEXTS) == cache.TEXTS_VERSION


def test_other_tokens_of_the_same_documents_need_another_version(tokenizer, with_beginning):
    texts = ["one", None, "", " \n", "é🙂", "a b", " c d", "<|endoftext|>x"]
    batch = {"text": texts, "first": [True] * 6 + [False, True], "last": [True] * 5 + [False] * 3}
    found = [repr(sorted(FEATURES.items()))]
    for each in (tokenizer, with_beginning):
        for prefix, suffix, keep, strip in (([], [0], False, False), ([5], [], True, True)):
            options = {
                "prefix": prefix,
                "suffix": suffix,
                "keep_blank": keep,
                "strip_pieces": strip,
            }
            rows = _tokenize_batch(batch, tokenizer=each, **options)
            found.append({n: [repr(v) for v in column] for n, column in sorted(rows.items())})
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    assert digest == TOKENS[cache.TOKENS_VERSION], "raise TOKENS_VERSION in gpt2ft/data/cache.py"
    assert max(TOKENS) == cache.TOKENS_VERSION


def test_what_it_is_made_from_and_when_it_was_used(place, own, tokenizer):
    made(own, tokenizer)
    for each in cache.entries():
        os.utime(each.path / cache.IN_USE, (0, 0))
    made(own, tokenizer)
    found = cache.entries()
    assert [(each.kind, each.made_from) for each in found] == [("text", str(own))] * 2
    files = [path for path in place.rglob("*") if path.is_file()]
    assert sum(each.n_bytes for each in found) == sum(path.stat().st_size for path in files)
    assert all(time.time() - each.last_used < 60 for each in found)
    own.write_text("other\n" * 100, encoding="utf-8")
    made(own, tokenizer)
    assert len(cache.entries()) == 4


def test_tokens_of_a_data_set_that_lies_elsewhere(place, tmp_path, tokenizer):
    """Nothing is put beside it."""
    datasets.Dataset.from_dict({"text": LINES}).save_to_disk(tmp_path / "theirs")
    before = sorted((tmp_path / "theirs").rglob("*"))
    digests = {
        tokenize(datasets.load_from_disk(tmp_path / "theirs"), tokenizer).digest() for _ in "12"
    }
    assert digests == {tokenize(LINES, tokenizer).digest()}
    assert sorted((tmp_path / "theirs").rglob("*")) == before
    (found,) = cache.entries()
    assert (found.kind, found.made_from) == ("tokens", str(tmp_path / "theirs"))


def test_what_is_in_use_is_kept(place, own, tokenizer):
    stores = made(own, tokenizer)
    deleted, in_use = cache.clear()
    assert (len(deleted), len(in_use)) == (0, 2)
    cache._let_go(0)  # as if the process had ended
    expected = [store.tokens(0, store.n_tokens).tolist() for store in stores]
    cache.clear()
    assert cache.entries() == [] and not list(cache.root().iterdir())
    # What is mapped stays readable, and what is gone is made again.
    assert [store.tokens(0, store.n_tokens).tolist() for store in stores] == expected
    assert [store.digest() for store in made(own, tokenizer)] == [s.digest() for s in stores]


def test_only_what_was_not_used_for_long(place, own, tokenizer):
    made(own, tokenizer)
    cache._let_go(0)
    old, new = cache.entries()
    os.utime(old.path / cache.IN_USE, (0, 0))
    deleted, in_use = cache.clear(older_than=3600)
    assert [each.path for each in deleted] == [old.path] and in_use == []
    assert [each.path for each in cache.entries()] == [new.path]


def test_what_is_not_ours_is_never_deleted(place, tmp_path, own, tokenizer):
    """Data sets of others, and whatever else lies in our folder."""
    theirs = datasets.Dataset.from_generator(
        lambda: iter([{"text": "a"}]), cache_dir=str(place), fingerprint="0" * 32
    )
    assert theirs.cache_files
    made(own, tokenizer)
    cache._let_go(0)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / cache.IN_USE).touch()
    link = cache.root() / f"text-{'a' * 16}"
    link.symlink_to(outside)
    strange = [cache.root() / name for name in ("notes", f"text-{'b' * 16}", f"x-{'c' * 16}")]
    for folder in strange:  # without the mark, or with another name
        folder.mkdir()
        (folder / "file").touch()
    ours = {path for each in cache.entries() for path in (each.path, *each.path.rglob("*"))}
    others = {*place.rglob("*"), outside / cache.IN_USE} - ours
    assert len(ours) > 8 and len(others) > 8
    cache.clear()
    assert all(path.exists() for path in others)
    assert not any(path.exists() for path in ours)


def test_leftovers_of_a_process_that_was_killed(place, own, tokenizer):
    made(own, tokenizer)
    cache._let_go(0)
    (first, second) = cache.entries()
    (first.path / cache.MADE_FROM).write_text("[", encoding="utf-8")
    trash = cache.root() / f"{cache.TRASH}x"
    shutil.move(second.path, trash / second.path.name)
    (found,) = cache.entries()
    assert found.made_from == "unknown"
    cache.clear()
    assert not list(cache.root().iterdir())


WORKER = """
import sys
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from gpt2ft import load_corpus, tokenize
from gpt2ft.data import cache
folder = Path(sys.argv[1])
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
print("ready", flush=True)
for i in range(6):
    path = folder / f"{i}.txt"
    path.write_text(f"text {i} of many\\n" * 50, encoding="utf-8")
    corpus = load_corpus(train_file=str(path), validation_split_percentage=0)
    store = tokenize(corpus.train, tokenizer)
    ids = tokenizer(path.read_text(encoding="utf-8"))["input_ids"]
    assert store.tokens(0, store.n_tokens).tolist() == [*ids, 0]
    cache._let_go(0)  # from here on it may be deleted
    assert store.tokens(0, store.n_tokens).tolist() == [*ids, 0]
    for _ in range(20):
        mine = Path(cache.entry("text", "the same", ["x"]))
        (mine / "written").write_text("x")
        assert (mine / "written").read_text() == "x"
        cache._let_go(0)
"""


def test_one_process_clears_while_another_reads_and_writes(place, tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(place)}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"ready\n"
        n_deleted = n_in_use = 0
        while worker.poll() is None:
            deleted, in_use = cache.clear()
            n_deleted, n_in_use = n_deleted + len(deleted), n_in_use + len(in_use)
    assert worker.returncode == 0
    assert n_deleted > 6 and n_in_use > 0
    cache.clear()
    assert not list(cache.root().iterdir())
