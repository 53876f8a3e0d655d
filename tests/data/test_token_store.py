"""pytest tests/data/test_token_store.py"""

from itertools import accumulate

import pytest
import transformers
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft import Rows, tokenize
from gpt2ft.data import token_store as tokens
from tests.support.stores import END, ROWS, few, ids, joined, of_rows


def test_documents_end_in_end_of_text_and_stand_one_after_another(documents, tokenizer, text_rows):
    store = tokenize(documents, tokenizer)
    expected = [token for row in text_rows for token in [*ids(tokenizer, row), END]]
    assert store.tokens(0, store.n_tokens).tolist() == expected


def test_without_separator_rows_are_one_text(documents, tokenizer, text_rows):
    store = tokenize(documents, tokenizer, separator=False)
    assert store.tokens(0, store.n_tokens).tolist() == ids(tokenizer, "".join(text_rows))


def test_tokens_across_any_border(tokenizer):
    """Documents enough for several record batches on disk."""
    rows = [f"row {i} " * (i % 5) for i in range(700)]
    store = tokenize(Dataset.from_dict({"text": rows}), tokenizer)
    everything = [t for row in rows if row for t in [*ids(tokenizer, row), END]]
    assert len(store._chunks) > 1
    edges = [int(edge) for edge in store._chunk_offsets]
    for edge in edges:
        for start, stop in ((edge - 3, edge + 3), (edge, edge + 1), (edge - 1, edge)):
            start, stop = max(0, start), min(stop, store.n_tokens)
            assert store.tokens(start, stop).tolist() == everything[start:stop]
    assert store.tokens(0, store.n_tokens).tolist() == everything
    assert store.tokens(5, 5).tolist() == []


def test_blank_documents_are_dropped_unless_kept(tokenizer):
    rows = Dataset.from_dict({"text": ["a", "", " \n", "b"]})
    dropped = tokenize(rows, tokenizer)
    expected = [*ids(tokenizer, "a"), END, *ids(tokenizer, "b"), END]
    assert dropped.tokens(0, dropped.n_tokens).tolist() == expected
    kept = tokenize(rows, tokenizer, separator=False, one_text=True)
    assert kept.tokens(0, kept.n_tokens).tolist() == ids(tokenizer, "a \nb")


def test_a_beginning_of_text_token_is_put_before_documents(documents, with_beginning, text_rows):
    store = tokenize(documents, with_beginning)
    begin = with_beginning.bos_token_id
    expected = [t for row in text_rows for t in [*ids(with_beginning, row), END]]
    assert expected[0] == begin
    assert store.tokens(0, store.n_tokens).tolist() == expected
    # Documents start at it; the end-of-text token before belongs to the document that ended.
    assert [int(store.tokens(s, s + 1)[0]) for s in store.document_starts] == [begin] * 40


def test_no_end_of_text_token(documents):
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(ValueError, match="row_separator none"):
        tokenize(documents, bare)
    assert tokenize(documents, bare, separator=False).n_tokens


def test_null_is_a_blank_document(tokenizer):
    store = tokenize(Dataset.from_dict({"text": ["a", None, "b"]}), tokenizer)
    expected = [*ids(tokenizer, "a"), END, *ids(tokenizer, "b"), END]
    assert store.tokens(0, store.n_tokens).tolist() == expected


def test_lines_of_one_text_have_nothing_before_them(with_beginning):
    rows = Dataset.from_dict({"text": ["ab\n", "cd\n"]})
    begin = with_beginning.bos_token_id
    one_text = tokenize(rows, with_beginning, separator=False, one_text=True)
    assert begin not in one_text.tokens(0, one_text.n_tokens)
    each = tokenize(rows, with_beginning, separator=False)
    assert [row["input_ids"][0] for row in Rows(each, 8)] == [begin, begin]


def test_the_digest_is_of_what_the_data_is(documents, tokenizer, text_rows):
    """Not of where it lies; another token or another border between documents changes it."""
    digest = tokenize(documents, tokenizer).digest()
    again = Dataset.from_dict({"other": [1] * 40, "text": text_rows})
    assert tokenize(again, tokenizer).digest() == digest
    for rows in ([*text_rows[:-1], "else"], text_rows[:-1], [text_rows[0] + "x", *text_rows[1:]]):
        assert tokenize(Dataset.from_dict({"text": rows}), tokenizer).digest() != digest


@few
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "é ", " bc", "\n"]), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_documents_may_come_in_pieces(tokenizer, with_beginning, documents):
    """As long ones do; a piece more must not be a document more."""
    pieces = [(text, number) for texts in documents for number, text in enumerate(["x", *texts])]
    rows = {
        "text": [text for text, _ in pieces],
        "first": [number == 0 for _, number in pieces],
        "last": [number == 0 for _, number in [*pieces[1:], pieces[0]]],
    }
    for reader, before in ((tokenizer, -1), (with_beginning, 0)):  # whose token opens a document
        whole = [[*ids(reader, "".join(["x", *texts])), END] for texts in documents]
        starts = accumulate(map(len, whole[:-1]), initial=0)
        store = tokenize(Dataset.from_dict(rows), reader)
        assert store.tokens(0, store.n_tokens).tolist() == joined(whole)
        assert store.document_starts.tolist() == [start + before for start in starts]
        assert not store.whole_documents


@few
@given(st.lists(ROWS, min_size=1, max_size=4), st.data())
def test_any_tokens_out_of_any_chunks(chunks, data):
    """A slice of a plain list says which; chunks without tokens lie in between, and an
    end-of-text token is found in each."""
    stream = joined(joined(chunks))
    store = of_rows(*chunks)
    borders = [place for place, token in enumerate(stream[:-1]) if token == END]
    assert store.document_starts.tolist() == ([-1, *borders] if stream else [])
    edge = st.integers(0, len(stream))
    for _ in range(8):
        start, stop = sorted([data.draw(edge), data.draw(edge)])
        assert store.tokens(start, stop).tolist() == stream[start:stop]


def test_the_cache_is_hit_by_a_tokenizer_that_was_used(documents, tokenizer, monkeypatch, tmp_path):
    """transformers' own pickle of it changes (datasets#3847); and other settings miss it."""
    documents.save_to_disk(tmp_path / "rows")
    calls = []

    original = tokens._tokenize_batch

    def counted(batch, **settings):
        calls.append(1)
        return original(batch, **settings)

    monkeypatch.setattr(tokens, "_tokenize_batch", counted)
    from datasets import load_from_disk

    tokenize(load_from_disk(tmp_path / "rows"), tokenizer)
    first = len(calls)
    assert first
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=4)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenize(load_from_disk(tmp_path / "rows"), tokenizer)
    assert len(calls) == first
    tokenize(load_from_disk(tmp_path / "rows"), tokenizer, separator=False)
    assert len(calls) > first


def test_no_documents(tokenizer):
    for documents in ([], Dataset.from_dict({"text": []})):
        with pytest.raises(ValueError, match="there are no documents to tokenize"):
            tokenize(documents, tokenizer)
