"""Where rows and documents lie: pytest tests/data/test_token_index.py"""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xxhash
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft.data.token_index import index_of
from gpt2ft.data.token_store import FEATURES, described
from tests.support.stores import few

END = 0
PIECES = st.lists(
    st.tuples(st.lists(st.integers(0, 3), max_size=5), st.booleans()), min_size=1, max_size=12
)


def tokenized(pieces, end):
    rows = [described(ids, first, end) for ids, first in pieces]
    return Dataset.from_list(rows, features=FEATURES)


def brute_force(pieces, *, has_prefix, end):
    """Offsets, document starts and digest with everything in memory."""
    lengths = [len(ids) for ids, _ in pieces]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    stream = [token for ids, _ in pieces for token in ids]
    begins = [int(o) for o, (ids, first) in zip(offsets, pieces, strict=False) if first and ids]
    if end is None:
        starts = []
    elif has_prefix:
        starts = begins
    else:
        places = [i for i, token in enumerate(stream[:-1]) if token == end]
        starts = [begin - 1 for begin in begins[:1]] + places
    state = xxhash.xxh3_128()
    hashes = [described(ids, True, end)["hash"] for ids, _ in pieces]
    for numbers in (hashes, offsets, starts):
        state.update(np.array(numbers, dtype=np.int64).tobytes())
    return offsets.tolist(), starts, state.hexdigest()


@few
@given(PIECES, st.booleans(), st.sampled_from([END, None]))
def test_an_index_is_what_a_brute_force_finds(pieces, has_prefix, end):
    index = index_of(tokenized(pieces, end), has_prefix=has_prefix, apart=end is not None)
    found = index.offsets.tolist(), index.document_starts.tolist(), index.digest
    assert found == brute_force(pieces, has_prefix=has_prefix, end=end)
    assert index.long_rows.tolist() == [i for i, (ids, _) in enumerate(pieces) if len(ids) > 1]
    assert index.largest == max((token for ids, _ in pieces for token in ids), default=-1)
    assert index.whole_documents == all(first for _, first in pieces)
    firsts = [first for _, first in pieces] + [True]
    alone = [tuple(ids) for i, (ids, _) in enumerate(pieces) if ids and firsts[i] and firsts[i + 1]]
    assert index.duplicates == (0 if end is None else len(alone) - len(set(alone)))


@pytest.fixture
def on_disk(tmp_path):
    """4,000 rows in many record batches, in a cache file."""
    generator = np.random.default_rng(0)
    pieces = [
        (generator.integers(0, 50, generator.integers(0, 9)).tolist(), bool(generator.integers(2)))
        for _ in range(4000)
    ]
    rows = Dataset.from_dict({"piece": [json.dumps(piece) for piece in pieces]})
    rows.save_to_disk(tmp_path / "rows")

    def row(record):
        return described(*json.loads(record["piece"]), END)

    file = tmp_path / "cache" / "tokens.arrow"
    file.parent.mkdir()
    made = Dataset.load_from_disk(tmp_path / "rows").map(
        row,
        cache_file_name=str(file),
        features=FEATURES,
        remove_columns=["piece"],
        writer_batch_size=100,
    )
    return pieces, made


def test_it_lies_beside_the_tokens_is_mapped_and_is_made_again_if_it_is_damaged(on_disk):
    pieces, made = on_disk
    expected = brute_force(pieces, has_prefix=False, end=END)

    def found():
        index = index_of(made, has_prefix=False, apart=True)
        return index.offsets.tolist(), index.document_starts.tolist(), index.digest

    assert found() == expected
    (folder,) = (made_folder for made_folder in _folder_of(made).glob("*index-*"))
    index = index_of(made, has_prefix=False, apart=True)
    mapped = index.offsets
    while mapped.base is not None and not isinstance(mapped, np.memmap):
        mapped = mapped.base
    assert isinstance(mapped, np.memmap)
    before = (folder / "facts.json").stat().st_mtime_ns
    assert found() == expected and (folder / "facts.json").stat().st_mtime_ns == before
    (folder / "offsets").write_bytes(b"12345678")
    assert found() == expected
    (folder / "facts.json").unlink()
    assert found() == expected
    assert [path.name for path in _folder_of(made).glob("*index-*")] == [folder.name]


def _folder_of(made):
    return Path(made.cache_files[0]["filename"]).parent


def test_looking_things_up_takes_no_memory(on_disk):
    _, made = on_disk
    index_of(made, has_prefix=False, apart=True)
    tracemalloc.start()
    index = index_of(made, has_prefix=False, apart=True)
    np.searchsorted(index.document_starts, [3, 500])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < index.offsets.nbytes
