"""pytest tests/data/test_batches.py"""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given
from hypothesis import strategies as st

from gpt2ft import Batches, Blocks, CausalLMCollator, Rows, tokenize
from gpt2ft.data.order import epoch_order
from gpt2ft.models.loading import END_OF_TEXT
from tests.support.stores import DOCUMENTS, END, ROWS, few, ids, joined, of_rows

BLOCK_SIZES = st.integers(3, 12) | st.just(10_000)
SEEDS = st.integers(0, 2**32 - 1)


def not_blank(documents):
    return [text for text in documents if text and text.strip()]


def lengths_of_blocks(n_tokens, size):
    """All full but the last; if that had one token, it has two, and the one before one less."""
    lengths = [size] * (n_tokens // size) + [n_tokens % size] * (n_tokens % size > 0)
    if lengths[-1] == 1:
        lengths[-2:] = [size - 1, 2]
    return lengths


def check_blocks(blocks, runs, lengths):
    """They hold the tokens of the runs, one after another, each token at its place in its run, or
    in the block if that began later."""
    stream = joined(runs)
    places = [place for run in runs for place in range(len(run))]
    assert len(blocks) == len(lengths)
    assert blocks.lengths.tolist() == lengths
    start = 0
    for index, length in enumerate(lengths):
        block, stop = blocks[index], start + length
        in_block = list(range(length))
        expected = [min(pair) for pair in zip(places[start:stop], in_block, strict=True)]
        assert block["input_ids"].tolist() == stream[start:stop]
        assert ("position_ids" in block) == (expected != in_block)
        assert list(block.get("position_ids", in_block)) == expected
        start = stop


def test_documents_may_be_left_together(tokenizer):
    store = tokenize(Dataset.from_dict({"text": ["abc", "de", "fghij"]}), tokenizer)
    assert "position_ids" not in Blocks(store, 8, keep_apart=False)[0]


@pytest.mark.parametrize("block_size", [3, 7, 16, 64, 10_000])
def test_blocks_lose_no_token_and_repeat_none(block_size, documents, tokenizer):
    store = tokenize(documents, tokenizer)
    everything = store.n_tokens
    # Also a stream whose last block would be a single token.
    for n_tokens in {everything, max(2, (everything - 1) // block_size * block_size + 1)}:
        store.offsets[-1] = n_tokens
        blocks = Blocks(store, block_size)
        together = np.concatenate([block["input_ids"] for block in blocks])
        assert together.tolist() == store.tokens(0, store.n_tokens).tolist()
        assert blocks.lengths.max() <= block_size
        assert blocks.lengths.min() >= 2
        assert [len(block["input_ids"]) for block in blocks] == blocks.lengths.tolist()


@few
@given(DOCUMENTS, BLOCK_SIZES, st.none() | st.integers(1, 4))
def test_blocks_of_any_documents(tokenizer, documents, block_size, limit):
    """A run is what an end-of-text token opens; one that is written in a text, too."""
    texts = END_OF_TEXT.join(not_blank(documents)).split(END_OF_TEXT)
    assume(not_blank(documents))
    runs = [ids(tokenizer, texts[0]), *([END, *ids(tokenizer, text)] for text in texts[1:])]
    runs[-1].append(END)  # of the last document: it opens nothing
    assume(len(joined(runs)) >= 2)
    store = tokenize(Dataset.from_dict({"text": documents}), tokenizer)
    lengths = lengths_of_blocks(store.n_tokens, block_size)[:limit]
    check_blocks(Blocks(store, block_size, limit=limit), runs, lengths)


@few
@given(DOCUMENTS, BLOCK_SIZES)
def test_blocks_of_any_documents_that_have_a_token_before_them(
    with_beginning, documents, block_size
):
    """Each is a run, its end-of-text token included."""
    assume(not_blank(documents))
    runs = [[*ids(with_beginning, text), END] for text in not_blank(documents)]
    store = tokenize(Dataset.from_dict({"text": documents}), with_beginning)
    lengths = lengths_of_blocks(store.n_tokens, block_size)
    check_blocks(Blocks(store, block_size), runs, lengths)


@few
@given(DOCUMENTS, BLOCK_SIZES, st.booleans())
def test_blocks_of_one_text_are_a_single_run(tokenizer, documents, block_size, one_text):
    """Whatever its lines are; the blank ones belong to it."""
    texts = [text or "" for text in documents] if one_text else not_blank(documents)
    run = ids(tokenizer, "".join(texts))
    assume(len(run) >= 2)
    rows = Dataset.from_dict({"text": documents})
    store = tokenize(rows, tokenizer, separator=False, one_text=one_text)
    check_blocks(Blocks(store, block_size), [run], lengths_of_blocks(len(run), block_size))


@few
@given(ROWS, st.integers(2, 10), st.none() | st.integers(1, 4))
def test_any_rows_are_cut_and_the_short_ones_left_out(rows, block_size, limit):
    expected = [row[:block_size] for row in rows if len(row) >= 2][:limit]
    assume(expected)
    cut = Rows(of_rows(rows), block_size, limit=limit)
    assert [cut[index]["input_ids"].tolist() for index in range(len(cut))] == expected
    assert cut.lengths.tolist() == [len(row) for row in expected]


def test_positions_begin_again_where_a_document_does(tokenizer):
    """The end-of-text token opens the next document: it is what predicts its first token."""
    store = tokenize(Dataset.from_dict({"text": ["abc", "de", "fghij"]}), tokenizer)
    # stream: a b c | E d e | E f g h i j | E, the last E opening what would follow
    blocks = Blocks(store, 8)
    assert blocks[0]["position_ids"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert "position_ids" not in blocks[1]  # f was in the block before; one document, from 0 on
    assert Blocks(store, 3)[1]["input_ids"].tolist()[0] == END
    assert "position_ids" not in Blocks(store, 3)[1]  # E d e: begins with the block


def test_end_of_text_written_in_a_text_is_a_border_too(tokenizer):
    store = tokenize(Dataset.from_dict({"text": ["abc<|endoftext|>de", "f"]}), tokenizer)
    assert Blocks(store, 9)[0]["position_ids"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_documents_in_pieces_are_no_rows(tokenizer):
    pieces = {"text": ["ab", " cd"], "first": [True, False], "last": [False, True]}
    store = tokenize(Dataset.from_dict(pieces), tokenizer)
    with pytest.raises(ValueError, match="load it with lines=True"):
        Rows(store, 8)


def test_rows_are_cut_and_short_ones_left_out(tokenizer):
    texts = Dataset.from_dict({"text": ["abcdef", "", "g", "hi", "\n"]})
    store = tokenize(texts, tokenizer, separator=False)
    rows = Rows(store, 4)
    assert [row["input_ids"].tolist() for row in rows] == [
        ids(tokenizer, "abcd"),
        ids(tokenizer, "hi"),
    ]
    assert rows.lengths.tolist() == [4, 2]
    ended = Rows(tokenize(texts, tokenizer), 4)
    assert [row["input_ids"].tolist() for row in ended] == [
        ids(tokenizer, "abcd"),  # cut: the text has not ended
        [*ids(tokenizer, "g"), END],
        [*ids(tokenizer, "hi"), END],
    ]


def test_limits_and_too_little_text(documents, tokenizer):
    store = tokenize(documents, tokenizer)
    assert len(Blocks(store, 16, limit=3)) == len(Rows(store, 16, limit=3)) == 3
    assert len(Blocks(store, 10_000, limit=3)) == 1
    nothing = tokenize(Dataset.from_dict({"text": [" "]}), tokenizer)
    with pytest.raises(ValueError, match="too short, at least 3"):
        Blocks(store, 2)
    with pytest.raises(ValueError, match="0 tokens"):
        Blocks(nothing, 16)
    with pytest.raises(ValueError, match="no row"):
        Rows(nothing, 16)


@few
@given(ROWS, st.integers(1, 5), st.none() | SEEDS, st.data())
def test_any_way_through_the_data(rows, batch_size, seed, data):
    """Each sample once an epoch, and a place holds the same batch whatever was asked before."""
    assume(any(len(row) >= 2 for row in rows))
    samples = Rows(of_rows(rows), 6)
    n_batches = (len(samples) + batch_size - 1) // batch_size
    in_order = {}
    for epoch in range(3):
        batches = Batches(samples, list, batch_size=batch_size, seed=seed)
        assert len(batches) == n_batches
        numbers = [batches.sample_numbers(epoch, index).tolist() for index in range(n_batches)]
        assert sorted(joined(numbers)) == list(range(len(samples)))
        if seed is not None:
            order = epoch_order(len(samples), seed=seed, epoch=epoch)
            assert joined(numbers) == [order[i] for i in range(len(samples))]
        assert [len(batch) for batch in numbers[:-1]] == [batch_size] * (n_batches - 1)
        for index, batch in enumerate(numbers):
            in_order[epoch, index] = [samples[number]["input_ids"].tolist() for number in batch]
    batches = Batches(samples, list, batch_size=batch_size, seed=seed)
    for place in data.draw(st.lists(st.sampled_from(list(in_order)), min_size=1)):
        assert [sample["input_ids"].tolist() for sample in batches[place]] == in_order[place]


@few
@given(ROWS, st.integers(1, 5), st.integers(0, 5))
def test_without_a_seed_every_epoch_is_by_length(rows, batch_size, epoch):
    """And the earlier first where two are as long, so that an evaluation repeats exactly."""
    assume(any(len(row) >= 2 for row in rows))
    samples = Rows(of_rows(rows), 6)
    batches = Batches(samples, list, batch_size=batch_size)
    numbers = joined(batches.sample_numbers(epoch, index) for index in range(len(batches)))
    lengths = [len(samples[number]["input_ids"]) for number in range(len(samples))]
    assert numbers == sorted(range(len(samples)), key=lambda number: (-lengths[number], number))


def test_batches_are_a_function_of_their_place(documents, tokenizer):
    """Any batch may be asked for at any time, as a resumed run does."""
    samples = Rows(tokenize(documents, tokenizer), 32)
    collate = CausalLMCollator(pad_token_id=END)
    data = Batches(samples, collate, batch_size=6, seed=3)
    assert len(data) == 7
    in_order = {(e, i): data[e, i]["input_ids"].tolist() for e in (0, 1) for i in range(7)}
    again = Batches(samples, collate, batch_size=6, seed=3)
    for place in reversed(in_order):
        assert again[place]["input_ids"].tolist() == in_order[place]
    numbers = [int(n) for i in range(7) for n in data.sample_numbers(1, i)]
    assert sorted(numbers) == list(range(40))


def test_without_a_seed_the_longest_come_first(documents, tokenizer):
    samples = Rows(tokenize(documents, tokenizer), 64)
    data = Batches(samples, CausalLMCollator(pad_token_id=END), batch_size=6)
    widths = [data[0, i]["input_ids"].shape[1] for i in range(len(data))]
    assert widths == sorted(widths, reverse=True)
    assert sorted(int(n) for i in range(7) for n in data.sample_numbers(0, i)) == list(range(40))
