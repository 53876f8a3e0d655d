"""pytest tests/test_loss.py"""

import pytest
import torch

from gpt2ft import CausalLMCollator, causal_lm_loss, count_targets

END = 0
DOCUMENTS = [[11, 12, 13, 14], [21], [31, 32, 33, 34, 35, 36]]


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_equals_hugging_face_with_an_attention_mask_on_padded_rows(kind, request):
    """The collator sends no mask, and padding changes neither loss nor gradient."""
    model = request.getfixturevalue(kind)()
    batch = CausalLMCollator(pad_token_id=END)([{"input_ids": ids} for ids in DOCUMENTS])
    loss_sum, n_targets = causal_lm_loss(model, batch), count_targets(batch)
    (loss_sum / n_targets).backward()
    ours = gradients(model)
    assert n_targets == sum(len(ids) - 1 for ids in DOCUMENTS)

    model.zero_grad()
    mask = (batch["labels"] != -100).long()
    theirs = model(input_ids=batch["input_ids"], labels=batch["labels"], attention_mask=mask).loss
    theirs.backward()
    torch.testing.assert_close(loss_sum / n_targets, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours, gradients(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_documents_do_not_see_each_other(kind, attention, request):
    """Restarting positions give each document the loss it has alone."""
    model = request.getfixturevalue(kind)().eval()
    model.set_attn_implementation(attention)
    packed = {
        "input_ids": torch.tensor([[t for ids in DOCUMENTS for t in ids]]),
        "position_ids": torch.tensor([[i for ids in DOCUMENTS for i in range(len(ids))]]),
    }
    # The first token of a document is no target here, so that alone and packed predict the same.
    labels = [[-100, *ids[1:]] for ids in DOCUMENTS]
    packed["labels"] = torch.tensor([[label for row in labels for label in row]])
    loss_sum = causal_lm_loss(model, packed)

    single = [
        {"input_ids": torch.tensor([ids]), "labels": torch.tensor([ids])} for ids in DOCUMENTS
    ]
    alone = sum(causal_lm_loss(model, batch) for batch in single)
    torch.testing.assert_close(loss_sum, alone, rtol=0, atol=1e-5)
    assert count_targets(packed) == sum(map(count_targets, single))


def test_without_restarting_positions_they_would(model):
    """The test above can fail."""
    model.eval()
    ids = torch.tensor([[t for ids in DOCUMENTS for t in ids]])
    labels = ids.clone()
    labels[0, [0, 4, 5]] = -100
    positions = torch.tensor([[i for ids in DOCUMENTS for i in range(len(ids))]])
    apart = causal_lm_loss(model, {"input_ids": ids, "labels": labels, "position_ids": positions})
    together = causal_lm_loss(model, {"input_ids": ids, "labels": labels})
    assert abs(apart - together) > 1e-3


def test_sum_is_fp32_under_autocast(model):
    ids = torch.tensor([DOCUMENTS[2]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_sum = causal_lm_loss(model, {"input_ids": ids, "labels": ids})
    assert loss_sum.dtype is torch.float32


def test_all_masked_is_a_sum_of_zero_over_zero_targets(model):
    ids = torch.tensor([DOCUMENTS[0]])
    batch = {"input_ids": ids, "labels": torch.full_like(ids, -100)}
    assert (float(causal_lm_loss(model, batch).detach()), count_targets(batch)) == (0.0, 0)


@pytest.mark.parametrize("plain", [True, False])
def test_another_ignore_index(plain, model, monkeypatch):
    """In both ways of computing the loss; a label of -100 would be out of the vocabulary."""
    if not plain:
        monkeypatch.setattr("gpt2ft.loss.plain_head", lambda model: None)
    batch = CausalLMCollator(pad_token_id=END)([{"input_ids": ids} for ids in DOCUMENTS])
    other = {**batch, "labels": batch["labels"].masked_fill(batch["labels"] == -100, -7)}
    assert count_targets(other, ignore_index=-7) == count_targets(batch)
    expected = causal_lm_loss(model, batch)
    torch.testing.assert_close(causal_lm_loss(model, other, ignore_index=-7), expected)
