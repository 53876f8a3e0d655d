"""Against torch on whole logits: pytest tests/evaluation/test_scores.py"""

import math

import datasets
import pytest
import torch
import torch.nn.functional as F

from gpt2ft import Batches, Blocks, CausalLMCollator, Rows, evaluate, tokenize
from gpt2ft.evaluation.scores import Score, score, token_scores
from gpt2ft.evaluation.windows import Windows
from gpt2ft.precision import resolve_precision
from tests.support.processes import together
from tests.support.tiny import byte_tokenizer, tiny_gpt2

CPU = torch.device("cpu")
FP32 = resolve_precision("fp32", CPU)


def batches(samples, size=3):
    return Batches(samples, CausalLMCollator(0), batch_size=size)


def brute_force(model, samples):
    """Sum of losses, hits and targets, a sample at a time, from the logits of the model."""
    loss, hits, targets = 0.0, 0, []
    with torch.no_grad():
        for number in range(len(samples)):
            sample = {name: torch.tensor(value)[None] for name, value in samples[number].items()}
            labels = sample.pop("labels", sample["input_ids"])[0, 1:]
            logits = model(**sample, use_cache=False).logits[0, :-1].double()
            chosen = labels != -100
            loss += float(F.cross_entropy(logits[chosen], labels[chosen], reduction="sum"))
            hits += int((logits.argmax(-1) == labels)[chosen].sum())
            targets += labels[chosen].tolist()
    return loss, hits, targets


@pytest.mark.parametrize("kind", ["blocks", "rows", "windows"])
def test_equal_to_a_brute_force(kind, model, documents, tokenizer):
    store = tokenize(documents, tokenizer)
    samples = {
        "blocks": lambda: Blocks(store, 32),
        "rows": lambda: Rows(store, 32),
        "windows": lambda: Windows(store, 32, 16, end=0),
    }[kind]()
    model.eval()
    loss, hits, targets = brute_force(model, samples)
    found = score(model, batches(samples), tokenizer, precision=FP32)
    assert found.n_targets == len(targets) and found.accuracy == hits / len(targets)
    assert found.loss == pytest.approx(loss / len(targets), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(loss / len(targets)), rel=1e-5)
    n_bytes = sum(target != 0 for target in targets)  # a token is a byte, 0 ends a text
    assert found.n_bytes == n_bytes
    assert found.bits_per_byte == pytest.approx(loss / math.log(2) / n_bytes, rel=1e-6)
    assert found.loss == pytest.approx(
        evaluate(model, batches(samples), precision=FP32).loss, rel=1e-6
    )


def test_a_head_that_is_more_than_a_product(make_model, documents, tokenizer):
    model = make_model().eval()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.tanh() * 5)
    samples = Blocks(tokenize(documents, tokenizer), 32)
    loss, _, targets = brute_force(model, samples)
    found = score(model, batches(samples), tokenizer, precision=FP32)
    assert found.loss == pytest.approx(loss / len(targets), rel=1e-6)


def test_masked_labels_have_no_score(model):
    ids = torch.arange(1, 9)[None]
    labels = ids.clone()
    labels[0, 3:6] = -100
    with torch.no_grad():
        losses, hits = token_scores(model.eval(), {"input_ids": ids, "labels": labels})
    assert losses.shape == hits.shape == (1, 7)
    assert (losses[0] == 0).tolist() == [False, False, True, True, True, False, False]


def test_units_are_documents_or_samples(model, text_rows, tokenizer):
    """Forty documents; and the sums over them are those of the whole."""
    store = tokenize(datasets.Dataset.from_dict({"text": text_rows}), tokenizer)
    found = score(model, batches(Blocks(store, 16)), tokenizer, precision=FP32)
    assert found.units.kind == "documents" and len(found.units.losses) == 40
    assert sum(found.units.n_targets) == found.n_targets
    assert sum(found.units.losses) / found.n_targets == pytest.approx(found.loss, abs=1e-5)
    # Each document is predicted by what is before it: its own bytes and the end of text.
    own = score(model, batches(Windows(store, 64, 64, end=0)), tokenizer, precision=FP32)
    assert own.units.n_targets == [len(row) + 1 - (i == 0) for i, row in enumerate(text_rows)]
    few = tokenize(datasets.Dataset.from_dict({"text": text_rows[:20]}), tokenizer)
    found = score(model, batches(Blocks(few, 16)), tokenizer, precision=FP32)
    assert found.units.kind == "blocks" and len(found.units.losses) == len(Blocks(few, 16))


def test_a_record_brings_the_score_back(model, documents, tokenizer):
    found = score(
        model, batches(Blocks(tokenize(documents, tokenizer), 32)), tokenizer, precision=FP32
    )
    assert Score.from_record(found.as_record()) == found
    assert Score.from_record({"eval_loss": 2.0, "n_targets": 3}) is None  # of an older version


def test_many_units_are_put_together(model, tokenizer, monkeypatch):
    monkeypatch.setattr("gpt2ft.evaluation.scores.MOST_UNITS", 10)
    store = tokenize(datasets.Dataset.from_dict({"text": ["some words"] * 95}), tokenizer)
    found = score(model, batches(Rows(store, 16)), tokenizer, precision=FP32)
    assert len(found.units.losses) == 10 and sum(found.units.n_targets) == found.n_targets


def test_several_processes_score_as_one():
    assert together(2, of_a_text)[1] == of_a_text()


def of_a_text():
    tokenizer, model = byte_tokenizer(), tiny_gpt2()
    rows = [f"row {n} of {n * n} words" for n in range(45)]
    store = tokenize(datasets.Dataset.from_dict({"text": rows}), tokenizer)
    return score(model, batches(Blocks(store, 16)), tokenizer, precision=FP32).as_record()
