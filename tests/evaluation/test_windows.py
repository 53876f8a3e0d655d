"""Against Hugging Face's recipe for perplexity: pytest tests/evaluation/test_windows.py"""

import datasets
import numpy as np
import pytest
import torch

from gpt2ft import Batches, CausalLMCollator, tokenize
from gpt2ft.evaluation.scores import score
from gpt2ft.evaluation.windows import Windows
from gpt2ft.precision import resolve_precision

TEXT = "a longer text, of which the windows each see a part " * 9


def one_text(tokenizer, text):
    store = tokenize(datasets.Dataset.from_dict({"text": [text]}), tokenizer, separator=False)
    return store, torch.tensor(store.tokens(0, store.n_tokens))[None]


def hugging_face(model, ids, size, stride):
    """The loop of the page "Perplexity of fixed-length models", each target counted once."""
    losses, n, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + size, ids.shape[1])
        target_ids = ids[:, begin:end].clone()
        target_ids[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=target_ids).loss
        targets = int((target_ids[:, 1:] != -100).sum())
        losses, n, previous = losses + float(loss) * targets, n + targets, end
        if end == ids.shape[1]:
            break
    return losses / n, n


@pytest.mark.parametrize(("size", "stride"), [(64, 64), (64, 32), (64, 7), (40, 1), (64, 63)])
def test_as_hugging_face_has_it(size, stride, model, tokenizer):
    store, ids = one_text(tokenizer, TEXT)
    expected, n = hugging_face(model.eval(), ids, size, stride)
    data = Batches(Windows(store, size, stride, end=None), CausalLMCollator(0), batch_size=5)
    precision = resolve_precision("fp32", torch.device("cpu"))
    found = score(model, data, tokenizer, precision=precision)
    assert found.n_targets == n and found.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [2, 30, 31, 32, 33, 48, 64, 65, 100])
@pytest.mark.parametrize("stride", [1, 5, 16, 32])
def test_each_token_is_a_target_once(length, stride, tokenizer):
    store, _ = one_text(tokenizer, "x" * length)
    windows = Windows(store, 32, stride, end=None)
    seen = np.zeros(length, int)
    for number in range(len(windows)):
        labels, start = windows[number]["labels"], int(windows._starts[number])
        places = np.flatnonzero(labels != -100)
        seen[start + places] += 1
        assert len(labels) <= 32 and (places >= min(start + 1, 32 - stride)).all()
    expected = 0 if stride == 32 else 1
    firsts = np.arange(length) % 32 == 0
    assert (seen[~firsts] == 1).all() and seen[0] == 0
    assert (seen[firsts][1:] == expected).all()


def test_windows_stay_within_documents(tokenizer):
    rows = ["abc", "", "de" * 30, "f"]
    store = tokenize(datasets.Dataset.from_dict({"text": rows}), tokenizer)
    windows = Windows(store, 32, 16, end=0)
    texts = {}
    for number in range(len(windows)):
        (document,) = set(windows.documents(number).tolist())
        texts.setdefault(document, []).append(tokenizer.decode(windows[number]["input_ids"]))
    end = "<|endoftext|>"
    assert texts[0] == [f"abc{end}"]
    assert texts[1][0].startswith(f"{end}dede") and texts[1][-1].endswith(f"e{end}")
    assert texts[2] == [f"{end}f{end}"]


def test_a_stride_beyond_the_window_is_refused(tokenizer):
    store, _ = one_text(tokenizer, TEXT)
    with pytest.raises(ValueError, match=r"--stride is 33, give a number >= 1 and <= the window"):
        Windows(store, 32, 33, end=None)
