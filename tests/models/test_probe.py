"""pytest tests/models/test_probe.py"""

import pytest

from gpt2ft import new_model
from gpt2ft.models.probe import check_fit, keeps_documents_apart, window


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
    with pytest.raises(ValueError, match="has 257 entries, the model's embedding 100"):
        check_fit(model, tokenizer, 48)
