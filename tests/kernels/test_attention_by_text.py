"""Attention without padding: pytest tests/kernels/test_attention_by_text.py"""

import pytest
import torch
import transformers

from gpt2ft.kernels.attention_by_text import attention_by_text

SDPA = transformers.AttentionInterface()["sdpa"]


class Module(torch.nn.Module):
    is_causal = True

    def __init__(self, groups=1):
        super().__init__()
        self.num_key_value_groups = groups


def tensors(batch, heads, length, keys, groups=1, size=16):
    torch.manual_seed(0)
    query = torch.randn(batch, heads * groups, length, size)
    return query, torch.randn(batch, heads, keys, size), torch.randn(batch, heads, keys, size)


def padded_mask(padding, length, keys, window=None):
    """What each query sees `(B, 1, T, S)`, one by one."""
    mask = torch.zeros(len(padding), 1, length, keys, dtype=torch.bool)
    for row, pad in enumerate(padding):
        for query in range(length):
            place = query + keys - length
            for key in range(keys):
                near = window is None or place - key < window
                mask[row, 0, query, key] = pad <= key <= place and near
    return mask


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize(("length", "keys"), [(1, 33), (33, 33), (7, 33)])
def test_against_torch(length, keys, window, groups):
    """Beside the padding it is the attention of transformers; each text has its own bits."""
    padding, module = [0, 5, 31], Module(groups)
    query, key, value = tensors(3, 2, length, keys, groups)
    mask = padded_mask(padding, length, keys, window)
    expected, _ = SDPA(module, query, key, value, mask, scaling=0.3)
    out, _ = attention_by_text(module, query, key, value, mask, scaling=0.3)
    assert out.shape == expected.shape
    for row, pad in enumerate(padding):
        first = max(0, pad - (keys - length))
        torch.testing.assert_close(out[row, first:], expected[row, first:], rtol=1e-5, atol=1e-5)
        assert not out[row, :first].any()
        mine = query[row : row + 1, :, first:]
        alone = padded_mask([0], length - first, keys - pad, window)
        if window is None and length in (1, keys):
            alone = None  # as transformers has it
        rows = key[row : row + 1, :, pad:], value[row : row + 1, :, pad:]
        bits, _ = attention_by_text(module, mine, *rows, alone, scaling=0.3)
        assert torch.equal(bits[0], out[row, first:])


def test_masks_of_other_kinds_are_those_of_torch():
    query, key, value = tensors(2, 2, 5, 5)
    for mask in (None, torch.randn(2, 1, 5, 5), torch.rand(2, 2, 5, 5) < 0.9):
        expected, _ = SDPA(Module(), query, key, value, mask)
        assert torch.equal(attention_by_text(Module(), query, key, value, mask)[0], expected)
