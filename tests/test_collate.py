"""pytest tests/test_collate.py"""

import numpy as np
import torch

from gpt2ft import CausalLMCollator


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
