"""pytest tests/data/test_collate.py"""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft import CausalLMCollator

END = 2  # pads, and stands in the samples as a real token


def test_pads_right_to_the_longest_and_masks_by_length():
    batch = CausalLMCollator(pad_token_id=9)([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert {name: value.dtype for name, value in batch.items()} == {
        "input_ids": torch.int64,
        "labels": torch.int64,
    }


def test_a_real_end_of_text_stays_a_target_when_it_is_also_the_pad_token():
    end = 50256
    batch = CausalLMCollator(pad_token_id=end)([{"input_ids": [5, 6, end]}, {"input_ids": [7]}])
    assert batch["labels"].tolist() == [[5, 6, end], [7, -100, -100]]


def test_pads_to_a_multiple():
    collate = CausalLMCollator(pad_token_id=0, pad_to_multiple_of=8)
    for length, width in ((1, 8), (8, 8), (9, 16)):
        assert collate([{"input_ids": np.arange(length)}])["input_ids"].shape == (1, width)


def test_labels_of_the_sample_are_kept():
    batch = CausalLMCollator(pad_token_id=0)([{"input_ids": [1, 2], "labels": [-100, 2]}])
    assert batch["labels"].tolist() == [[-100, 2]]


def test_positions_only_where_a_sample_has_them_and_counted_on_elsewhere():
    plain = {"input_ids": [1, 2, 3, 4]}
    packed = {"input_ids": [1, 2, 3], "position_ids": [0, 0, 1]}
    collate = CausalLMCollator(pad_token_id=0)
    assert "position_ids" not in collate([plain])
    assert collate([plain, packed])["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 1, 3]]


@st.composite
def some_samples(draw):
    """A few samples; tokens of so few kinds that the pad token is often among them, at the end
    too."""

    def values(length, low, high):
        numbers = draw(st.lists(st.integers(low, high), min_size=length, max_size=length))
        return draw(st.sampled_from([list, np.array, torch.tensor]))(numbers)

    samples = []
    for length in draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)):
        sample = {"input_ids": values(length, 0, 3)}
        if draw(st.booleans()):
            sample["labels"] = values(length, -1, 3)
        if draw(st.booleans()):
            sample["position_ids"] = values(length, 0, 5)
        samples.append(sample)
    return samples


@given(some_samples(), st.integers(1, 8))
def test_any_samples_against_padding_by_hand(samples, multiple):
    """The three ways to pad wrongly are by token id, to another width, and into another row."""
    width = max(len(sample["input_ids"]) for sample in samples)
    while width % multiple:
        width += 1
    expected = {"input_ids": [], "labels": [], "position_ids": []}
    for sample in samples:
        ids = [int(token) for token in sample["input_ids"]]
        labels = [int(label) for label in sample.get("labels", ids)]
        places = [int(place) for place in sample.get("position_ids", range(len(ids)))]
        padding = range(len(ids), width)
        expected["input_ids"].append(ids + [END for _ in padding])
        expected["labels"].append(labels + [-100 for _ in padding])
        expected["position_ids"].append(places + list(padding))
    if all("position_ids" not in sample for sample in samples):
        del expected["position_ids"]
    batch = CausalLMCollator(pad_token_id=END, pad_to_multiple_of=multiple)(samples)
    assert {name: value.tolist() for name, value in batch.items()} == expected
    assert {value.dtype for value in batch.values()} == {torch.int64}
