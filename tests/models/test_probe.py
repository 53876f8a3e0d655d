"""pytest tests/models/test_probe.py"""

import pytest
import torch
import transformers

from gpt2ft import CausalLMCollator, causal_lm_loss, count_targets, new_model
from gpt2ft.models.probe import check_fit, keeps_documents_apart, plain_head, window
from tests.support.families import FAMILIES, SMALLER

ROWS = [[3, 200, 7, 7, 41, 9], [250, 1], [8, 9, 10, 11], [5, 6, 7, 8, 9, 10, 11, 12]]


def small(family, *, size=1.0, **settings):
    """A model of two layers over bytes, its weights of that share of their usual size."""
    torch.manual_seed(0)
    sizes = FAMILIES.get(family, {}) | SMALLER.get(family, {}) or FAMILIES["mistral"]
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    config = transformers.AutoConfig.for_model(
        family, vocab_size=257, **{**special, **sizes, **settings}
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= size if weight.dim() > 1 else 1
    return model


NARROW = {"num_key_value_heads": 2, "intermediate_size": 64}
SCALED = {  # or capped; by default unless there is a setting
    "gemma2": {},
    "vaultgemma": {**SMALLER["gemma2"]},
    "recurrent_gemma": {**NARROW, "lru_width": 32, "num_hidden_layers": 3},
    "nanochat": NARROW,
    "cohere": NARROW,
    "cohere2": NARROW,
    "granite": {**NARROW, "logits_scaling": 4.0},
    "granitemoe": {**NARROW, "logits_scaling": 4.0},
    "hyperclovax": {**NARROW, "logits_scaling": 4.0},
}


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_a_head_is_plain_whatever_the_weights(size, make_model, make_llama):
    """So a run that is resumed finds what it found at first."""
    plain = [small(family, size=size) for family in ("gpt_neox", "opt", "mistral", "qwen2")]
    plain.append(small("gemma2", size=size, final_logit_softcapping=None))
    for model in (*plain, make_model(), make_llama()):
        with torch.no_grad():
            model.get_output_embeddings().weight *= size
        assert plain_head(model) is model.get_output_embeddings().weight


def test_a_vocabulary_of_three():
    """As that of a model that sorts letters."""
    settings = dict.fromkeys(("bos_token_id", "eos_token_id"))
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=3, **settings)
    model = transformers.GPT2LMHeadModel(config)
    assert plain_head(model) is not None and keeps_documents_apart(model)


@pytest.mark.parametrize("size", [1e-3, 1.0])
@pytest.mark.parametrize("family", SCALED)
def test_logits_that_are_capped_or_scaled(family, size):
    """Trained on as they are, also where the weights are so small that a cap does not show."""
    model = small(family, size=size, **SCALED[family]).train()
    assert plain_head(model) is None
    batch = CausalLMCollator(0)([{"input_ids": row} for row in ROWS])
    loss, n = causal_lm_loss(model, batch), count_targets(batch)
    mask = (batch["labels"] != -100).long()
    theirs = model(input_ids=batch["input_ids"], labels=batch["labels"], attention_mask=mask).loss
    torch.testing.assert_close(loss / n, theirs, rtol=1e-5, atol=1e-6)


def test_a_cap_is_found_before_it_shows():
    """A new model, its logits small, is not another one when they have grown."""
    model = small("gemma2", size=1e-3)
    batch = CausalLMCollator(0)([{"input_ids": row} for row in ROWS])
    causal_lm_loss(model, batch)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1e5 if weight.dim() > 1 else 1
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits
    assert logits.abs().max() > 20
    targets = batch["labels"][:, 1:]
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].mT, targets, reduction="sum")
    torch.testing.assert_close(causal_lm_loss(model, batch), expected, rtol=1e-5, atol=1e-5)


class Scaled(transformers.GPT2LMHeadModel):
    """GPT-2 whose logits or hidden states are scaled by a weight that is 1 at first."""

    def __init__(self, config, where):
        super().__init__(config)
        self.scale, self.where = torch.nn.Parameter(torch.ones(())), where

    def forward(self, input_ids, **settings):
        hidden = self.transformer(input_ids, **settings).last_hidden_state
        if self.where == "hidden states":
            hidden = hidden * self.scale
        logits = self.lm_head(hidden)
        logits = logits * self.scale if self.where == "logits" else logits
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def test_heads_that_are_not_plain(make_model):
    assert plain_head(Scaled(make_model().config, "nothing")) is not None
    assert plain_head(Scaled(make_model().config, "logits")) is None
    assert plain_head(Scaled(make_model().config, "hidden states")) is None
    assert plain_head(torch.nn.Linear(2, 2)) is None
    model = make_model()
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: None)
    assert plain_head(model) is None
    handle.remove()
    assert plain_head(model) is not None
    assert not any(module._forward_hooks for module in model.modules())
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(257))
    assert plain_head(model) is None
    whole = small("llama4_text", intermediate_size_mlp=64, num_local_experts=2, **NARROW)
    assert whole.base_model is whole and plain_head(whole) is None


def test_an_interrupted_try_leaves_no_trace(make_model, monkeypatch):
    model, batch = make_model(), {"input_ids": torch.tensor([ROWS[0]])}
    expected = model(**batch).logits
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model.transformer.h[1], "forward", interrupted)
        plain_head(model)
    assert torch.equal(model(**batch).logits, expected)
    assert plain_head(model) is not None


def interrupted(*inputs, **settings):
    raise KeyboardInterrupt


def test_the_window(make_model, make_llama, tokenizer):
    assert window(make_model(n_positions=48)) == 48
    assert window(make_llama()) == 64
    assert (
        window(
            new_model("bloom", tokenizer=tokenizer, overrides="n_layer=1,hidden_size=8,n_head=1")
        )
        is None
    )


def test_which_models_keep_packed_documents_apart(make_model, make_llama, tokenizer):
    assert keeps_documents_apart(make_model()) and keeps_documents_apart(make_llama())
    bloom = new_model("bloom", tokenizer=tokenizer, overrides="n_layer=1,hidden_size=8,n_head=1")
    mamba = new_model("mamba", tokenizer=tokenizer, overrides="num_hidden_layers=1,hidden_size=8")
    assert not keeps_documents_apart(bloom) and not keeps_documents_apart(mamba)
    model = make_model(dropout=0.5).train()
    assert keeps_documents_apart(model) and model.training


def test_what_does_not_fit(make_model, tokenizer):
    model = make_model(n_positions=48)
    check_fit(model, tokenizer, 48)
    with pytest.raises(ValueError, match="block_size 49 is over the model's window, at most 48"):
        check_fit(model, tokenizer, 49)
    with pytest.raises(ValueError, match="at least 2"):
        check_fit(model, tokenizer, 1)
    bert = new_model(
        "bert",
        tokenizer=tokenizer,
        overrides="num_hidden_layers=1,hidden_size=8,num_attention_heads=1,intermediate_size=8",
    )
    with pytest.raises(ValueError, match="BertLMHeadModel sees the tokens it is to predict"):
        check_fit(bert, tokenizer, 48)
    model.resize_token_embeddings(100)
    with pytest.raises(ValueError, match="has 257 entries, but the model's embedding has 100"):
        check_fit(model, tokenizer, 48)
