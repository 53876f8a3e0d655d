"""A corpus that is read file by file: pytest tests/data/test_stream.py"""

import json
import random
import threading
from pathlib import Path

import datasets
import fsspec
import pytest

from gpt2ft import Batches, Blocks, CausalLMCollator, Rows, tokenize
from gpt2ft.data.order import IN_TURN, KeyedOrder
from gpt2ft.data.reader import Reader
from gpt2ft.data.shards import all_documents, list_shards
from gpt2ft.data.stream import Stream, read_notes
from tests.support.tiny import byte_tokenizer

N_FILES, SEED = 7, 5


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def files(tmp_path):
    """Files of different lengths; every line is there once."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(N_FILES):
        lines = [f"line {number} {n}" for n in range(5 + 3 * number)]
        (folder / f"part-{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def make(files, tokenizer, tmp_path):
    """A stream of rows; `loads` are the files that were read."""
    loads = []

    def stream(folder="cache", *, at_once=2, blocks=False, **options):
        shards, _ = list_shards(
            Reader(lines=not blocks), train_file=files, validation_split_percentage=0
        )

        def cut(documents):
            loads.append(len(documents))
            store = tokenize(documents, tokenizer)
            samples = Blocks(store, 16) if blocks else Rows(store, 64)
            return samples, store.digest()

        return Stream(shards, cut, seed=SEED, at_once=at_once, folder=tmp_path / folder, **options)

    stream.loads = loads
    return stream


def text_of(sample, tokenizer):
    return tokenizer.decode(sample["input_ids"], skip_special_tokens=True)


def settled(stream):
    """When the thread that prepares the next window is done."""
    for thread in threading.enumerate():
        if thread.name.endswith("(_prepare)"):
            thread.join(60)


def expected_order(files):
    """The lines of the first two passes, by a brute force over everything."""
    expected, window = [], 0
    for number_of_pass in range(2):
        order = KeyedOrder(N_FILES, seed=SEED, epoch=-1 - number_of_pass)
        numbers = [order[i] for i in range(N_FILES)]
        for first in range(0, N_FILES, 2):
            lines = [
                line
                for number in numbers[first : first + 2]
                for line in Path(files[number]).read_text().split("\n")
            ]
            shuffled = KeyedOrder(len(lines), seed=SEED, epoch=window)
            expected += [lines[shuffled[i]] for i in range(len(lines))]
            window += 1
    return expected


def test_each_sample_once_in_a_pass_in_an_order_of_the_seed(make, files, tokenizer):
    stream, expected = make(), expected_order(files)
    assert [text_of(stream[i], tokenizer) for i in range(len(expected))] == expected
    half = len(expected) // 2
    everything = sorted("\n".join(Path(file).read_text() for file in files).split("\n"))
    assert sorted(expected[:half]) == sorted(expected[half:]) == everything
    assert expected[:half] != expected[half:]


def test_any_position_at_any_time(make, files, tokenizer):
    """Also one that went by, as another process may ask for it."""
    stream, expected = make(), expected_order(files)
    dice = random.Random(0)
    for _ in range(25):
        position = dice.randrange(len(expected))
        assert text_of(stream[position], tokenizer) == expected[position]
    settled(stream)


def test_going_on_reads_only_what_is_needed(make, files, tokenizer, tmp_path):
    notes = tmp_path / "shards.json"
    expected = expected_order(files)
    first = make(notes=notes)
    for i in range(len(expected) // 2):
        first[i]
    settled(first)
    known = read_notes(notes)
    assert len(known) == N_FILES
    make.loads.clear()
    position = len(expected) // 2 - 1
    again = make("elsewhere", known=known)
    assert text_of(again[position], tokenizer) == expected[position]
    settled(again)
    assert len(make.loads) <= 1 + 2  # of the last window, one file, and those of the next one
    make.loads.clear()
    without = make("a third place")  # what was noted is lost: exact all the same
    assert text_of(without[position], tokenizer) == expected[position]
    settled(without)
    assert len(make.loads) >= N_FILES


def test_what_lies_on_the_disk_is_bounded(make, tmp_path):
    stream = make(at_once=1)
    most = 0
    for i in range(0, 200, 3):
        stream[i]
        settled(stream)
        folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
        most = max(most, len(folders))
    assert 2 <= most <= 3


def test_the_next_window_is_read_while_this_one_is_used(make, tmp_path):
    stream = make()
    stream[0]
    settled(stream)
    ready = {int(path.name[:6]) for path in (tmp_path / "cache").iterdir() if path.is_dir()}
    assert ready == {*stream.shards_of(0), *stream.shards_of(1)}


def test_a_file_that_has_changed_is_refused(make, files, tmp_path):
    notes = tmp_path / "shards.json"
    stream = make(notes=notes)
    stream[0]
    settled(stream)
    number = stream.shards_of(0)[0]
    Path(files[number]).write_text("other words", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"part-{number}.txt has changed since this run read it"):
        make("elsewhere", known=read_notes(notes))[0]


def test_a_file_that_cannot_be_read_is_said_when_its_turn_comes(make, files):
    stream = make()
    n = 0
    number = stream.shards_of(1)[0]
    Path(files[number]).write_bytes(b"\xff\xfe no text")
    stream[0]
    settled(stream)
    with pytest.raises(ValueError, match=rf"part-{number}.txt is not UTF-8"):
        while True:
            stream[n]
            n += 1
    assert n > 1


def test_packed_and_in_batches(make, tokenizer):
    stream = make(blocks=True)
    data = Batches(stream, CausalLMCollator(0), batch_size=3, seed=1, order=IN_TURN)
    for index in (0, 5, 1):
        numbers = data.sample_numbers(0, index).tolist()
        assert numbers == [3 * index, 3 * index + 1, 3 * index + 2]
        rows = [stream[number]["input_ids"].tolist() for number in numbers]
        batch = data[0, index]["input_ids"]
        assert [row[: len(ids)].tolist() for row, ids in zip(batch, rows, strict=True)] == rows
    with pytest.raises(TypeError, match="has no end"):
        stream.lengths  # noqa: B018
    settled(stream)


def test_files_held_out(files, tmp_path):
    shards, held_out = list_shards(Reader(), train_file=files, validation_split_percentage=20)
    assert [s.name for s in shards] == files[:-1] and [s.name for s in held_out] == files[-1:]
    documents = all_documents(held_out, tmp_path / "held-out")
    assert "".join(documents["text"]) == Path(files[-1]).read_text()
    assert all_documents([], tmp_path / "none") is None
    shards, held_out = list_shards(Reader(), train_file=files[:2], validation_file=files[2:4])
    assert [s.name for s in held_out] == files[2:4] and len(shards) == 2
    with pytest.raises(ValueError, match="5 percent of 1 files cannot be held out"):
        list_shards(Reader(), train_file=files[:1])
    with pytest.raises(ValueError, match="leave out --streaming"):
        list_shards(Reader(), dataset_name="python-reference")


def test_a_data_set_of_many_files(tmp_path):
    """A folder of the form that the hub has."""
    folder = tmp_path / "set"
    for split, n in (("train", 3), ("validation", 1)):
        for number in range(n):
            rows = datasets.Dataset.from_dict({"text": [f"{split} {number}", "ä"]})
            (folder / "data").mkdir(parents=True, exist_ok=True)
            rows.to_parquet(folder / "data" / f"{split}-{number:05d}-of-{n:05d}.parquet")
    shards, held_out = list_shards(Reader(), dataset_name=str(folder))
    assert [len(part) for part in (shards, held_out)] == [3, 1]
    texts = [shard.load(tmp_path / "c" / str(i))["text"] for i, shard in enumerate(shards)]
    assert [list(text) for text in texts] == [[f"train {i}", "ä"] for i in range(3)]
    with pytest.raises(ValueError, match="no files of the split test"):
        list_shards(Reader(), dataset_name=str(folder), dataset_split="test")


def test_a_file_that_is_fetched(tmp_path):
    """From a file system that is not this machine's."""
    records = "".join(json.dumps({"text": f"record {n}"}) + "\n" for n in range(3))
    with fsspec.filesystem("memory").open("/texts/a.jsonl", "w") as file:
        file.write(records)
    (folder,) = [tmp_path / "cache"]
    from gpt2ft.data import shards

    for _ in range(2):
        rows = shards._documents("memory://texts/a.jsonl", folder, Reader())
        assert list(rows["text"]) == ["record 0", "record 1", "record 2"]
        fsspec.filesystem("memory").store.clear()  # the second time it is there
    assert [path.name for path in (folder / "download").iterdir()] == ["a.jsonl"]
