"""GGUF files as models: pytest tests/models/test_from_gguf.py

The files are written by this package; other quantisations by the `gguf` package.
"""

import numpy as np
import pytest
import torch
import transformers

from gpt2ft.models.adapters import add_lora, note_base
from gpt2ft.models.gguf import write_gguf
from gpt2ft.models.loading import is_adapter, load_model, load_tokenizer, train_tokenizer
from gpt2ft.models.names import is_gguf, is_here

gguf = pytest.importorskip("gguf")
from gpt2ft.models.from_gguf import weight_type  # noqa: E402

SIZES = {
    **{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 300},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "head_dim": 16,
}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500000.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
}
CASES = {
    "gpt2": {
        **{"n_layer": 2, "n_head": 2, "n_embd": 64, "n_inner": 96, "n_positions": 64},
        "vocab_size": 300,
    },
    "llama": SIZES,
    "llama 3.1": SIZES | {"rope_parameters": {**LLAMA3, "factor": 8.0}},
    "llama 3.2": SIZES | {"rope_parameters": {**LLAMA3, "factor": 32.0}},
    "llama of a longer context": SIZES
    | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}},
    "mistral": SIZES,
    "qwen2": SIZES | {"tie_word_embeddings": True},
    "qwen3": SIZES,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["it is another word of many words, and any other word"], vocab_size=280)


def small(case, **changed):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.split()[0], **CASES[case], **changed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    return model


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def written(path, model, tokenizer, type="f16"):
    write_gguf(path, model, tokenizer, type=type, metadata={})
    return str(path)


def test_it_is_a_plain_model_that_is_saved_and_loaded_by_anyone(case, tokenizer, tmp_path):
    source = small(case)
    name = written(tmp_path / "m.gguf", source, tokenizer)
    model = load_model(name)
    for (key, own), its in zip(source.named_parameters(), model.parameters(), strict=True):
        own.data = its.data if own.ndim == 2 else own.data
        assert torch.equal(own, its) and its.requires_grad, key
    ids = torch.arange(1, 61)[None]
    with torch.inference_mode():
        expected = source(ids).logits  # of the weights as they are rounded
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.inference_mode():
        torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert not hasattr(again.config, "quantization_config")
    if case.startswith("mistral"):
        assert again.config.model_type in ("mistral", "llama")  # llama.cpp has one name for both


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_dropout_is_set(name, tokenizer, tmp_path):
    path = written(tmp_path / "m.gguf", small(name), tokenizer)
    model = load_model(path, dropout=0.25)
    if name == "gpt2":
        assert model.transformer.drop.p == model.transformer.h[0].attn.attn_dropout.p == 0.25
    else:
        assert model.model.layers[0].self_attn.attention_dropout == 0.25


def test_the_tokenizer_and_its_chat_template_come_along(tokenizer, tmp_path):
    tokenizer.chat_template = "{{ messages[0].content }}"
    name = written(tmp_path / "m.gguf", small("qwen2"), tokenizer)
    found = load_tokenizer(name)
    text = "another word, any"
    assert found(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert found.chat_template == tokenizer.chat_template
    assert found.eos_token == tokenizer.eos_token == found.pad_token
    assert load_model(name).generation_config.eos_token_id == tokenizer.eos_token_id


def test_eight_bits_are_unpacked(tokenizer, tmp_path):
    name = written(tmp_path / "m.gguf", small("llama"), tokenizer, "q8_0")
    assert weight_type(name) == "Q8_0"
    assert weight_type(written(tmp_path / "h.gguf", small("llama"), tokenizer)) == "F16"
    check_unpacked(name)


def check_unpacked(name):
    """Each weight is what the `gguf` package makes of its bytes."""
    model = load_model(name)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(name).tensors}
    for layer, block in enumerate(model.model.layers):
        for own, key in ((block.mlp.up_proj, "ffn_up"), (block.mlp.down_proj, "ffn_down")):
            tensor = tensors[f"blk.{layer}.{key}.weight"]
            its = gguf.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(own.weight.detach().numpy(), its)


@pytest.mark.parametrize("type", ["Q4_0", "Q5_1"])
def test_other_types_are_unpacked_too(type, tokenizer, tmp_path, monkeypatch):
    kinds = gguf.GGMLQuantizationType

    def encoded(_, tensor, __):
        if tensor.ndim < 2:
            return tensor, kinds.F32
        return gguf.quantize(tensor, kinds[type]), kinds[type]

    monkeypatch.setattr("gpt2ft.models.gguf._encoded", encoded)
    name = written(tmp_path / "m.gguf", small("llama"), tokenizer)
    assert weight_type(name) == type
    check_unpacked(name)


def test_an_adapter_belongs_to_a_file(tokenizer, tmp_path):
    """It is loaded again with it, and names the file."""
    name = written(tmp_path / "m.gguf", small("gpt2"), tokenizer)
    model = load_model(name)
    add_lora(model, r=2, alpha=4, dropout=0.0, targets=["c_attn"], seed=0)
    note_base(model, name, "main")
    model.save_pretrained(tmp_path / "adapter")
    again = load_model(str(tmp_path / "adapter"))
    ids = torch.arange(1, 41)[None]
    with torch.inference_mode():
        torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)
    found = load_tokenizer(str(tmp_path / "adapter"))
    assert found("another word")["input_ids"] == tokenizer("another word")["input_ids"]


def test_positions_that_no_setting_has_are_refused(tokenizer, tmp_path):
    strange = {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 16}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, rope_parameters=strange)
    model = transformers.LlamaForCausalLM(config)
    name = written(tmp_path / "m.gguf", model, tokenizer)
    with pytest.raises(ValueError, match="positions by factors of which no setting is known"):
        load_model(name)


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "m.gguf"
    written(path, small("gpt2"), tokenizer)
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no GGUF at all" * 20,
        lambda data: data[:4] + b"\xff" * 4 + data[8:],  # a version
        lambda data: data[:8] + b"\xff" * 8 + data[16:],  # how many tensors
        lambda data: data[:16] + b"\xff" * 8 + data[24:],  # how many keys
        lambda data: data[:200],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-100],
        lambda data: data.replace(b"gpt2", b"gpt9"),
        lambda data: data.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenZ"),
    ],
)
def test_a_damaged_file_is_one_sentence(damage, whole, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(damage(whole))
    for load in (load_model, load_tokenizer):
        try:
            load(str(path))
        except ValueError as error:
            assert "cannot be read as a GGUF model" in str(error) and "\n" not in str(error)
            return
    raise AssertionError("it was loaded")


def test_names(tmp_path):
    assert is_gguf("a/b.gguf") and not is_gguf("a/b") and not is_gguf("gpt2")
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(str(tmp_path / "folder.gguf")) and is_here(str(tmp_path / "folder.gguf"))
    assert is_here("a/b.gguf") and is_here("gpt2-mini") and not is_here("gpt2")
    assert not is_adapter(str(tmp_path / "none.gguf"))
    with pytest.raises(FileNotFoundError, match=r"no file /.*none\.gguf"):
        load_model(str(tmp_path / "none.gguf"))
