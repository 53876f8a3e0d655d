"""pytest tests/models/test_gguf_reading.py

Weights are compared with what the `gguf` package makes of the file. That files that we write are
read as the model they were written from, is in test_gguf.py.
"""

import json

import numpy as np
import pytest
import torch
import transformers

from gpt2ft.data.chat_template import PLAIN_TEMPLATE
from gpt2ft.models import gguf as writing
from gpt2ft.models.loading import is_adapter, load_model, load_tokenizer, train_tokenizer

gguf = pytest.importorskip("gguf")
Q = gguf.GGMLQuantizationType
SIZES = {
    **{"num_hidden_layers": 1, "hidden_size": 256, "intermediate_size": 256, "vocab_size": 280},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}


@pytest.fixture
def tokenizer():
    return train_tokenizer(["it is another word of many words, and any other word"], vocab_size=280)


def small(model_type, **changed):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES | changed)
    return transformers.AutoModelForCausalLM.from_config(config)


def written(path, model, tokenizer, **metadata):
    writing.write_gguf(path, model, tokenizer, type="f16", metadata=metadata)
    return str(path)


def changed_setting(monkeypatch, **settings):
    """Have the writer add these to what it says of the shape."""
    right = writing._add_shape

    def add(writer, config):
        right(writer, config)
        for name, value in settings.items():
            key = f"{writer.arch}.{name.replace('__', '.')}"
            put = writer.add_string if isinstance(value, str) else writer.add_float32
            put(key, value)

    monkeypatch.setattr(writing, "_add_shape", add)


def random_blocks(rows, columns, kind):
    """Blocks of a type that the package reads and does not write; their factors are no NaN."""
    block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 256, (rows, columns // block, n_bytes), dtype=np.uint8)
    half = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
    if kind == Q.Q4_K:
        blocks[..., 0:2] = blocks[..., 2:4] = half
    elif kind == Q.Q6_K:
        blocks[..., -2:] = half
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", [Q.Q4_K, Q.Q6_K, Q.Q4_0, Q.Q5_1, Q.Q8_0, Q.BF16, Q.F32])
def test_weights_of_any_bits_are_those_of_the_library(kind, tmp_path, tokenizer, monkeypatch):
    def encoded(name, tensor, type):
        if tensor.ndim < 2:
            return tensor, Q.F32
        if kind in (Q.Q4_K, Q.Q6_K):
            return random_blocks(*tensor.shape, kind), kind
        return gguf.quantize(tensor, kind), kind

    monkeypatch.setattr(writing, "_encoded", encoded)
    path = written(tmp_path / "m.gguf", small("qwen2"), tokenizer)
    loaded = load_model(path)
    in_file = {name: values for _, name, values in writing.named_tensors(loaded)}
    tensors = gguf.GGUFReader(path).tensors
    assert {tensor.name for tensor in tensors} == in_file.keys()
    for tensor in tensors:
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(in_file[tensor.name], expected), tensor.name
    assert all(p.dtype == torch.float32 and p.requires_grad for p in loaded.parameters())


def test_it_is_a_plain_model(tmp_path, tokenizer):
    """One that can be saved, and trained; dropout is set as for other models."""
    path = written(tmp_path / "m.gguf", small("qwen3"), tokenizer)
    loaded = load_model(path, dropout=0.25)
    assert loaded.config.attention_dropout == 0.25 and not loaded.training
    assert not is_adapter(path)
    loaded.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == ["Qwen3ForCausalLM"]


def test_a_chat_model_keeps_its_template_and_both_of_its_ends(tmp_path, tokenizer):
    tokenizer.chat_template = PLAIN_TEMPLATE
    model = small("qwen2")
    model.generation_config.eos_token_id = [0, 7]
    path = written(tmp_path / "m.gguf", model, tokenizer)
    assert load_tokenizer(path).chat_template == PLAIN_TEMPLATE
    assert load_model(path).generation_config.eos_token_id == [0, 7]


def test_what_lies_beside_the_file_is_not_read(tmp_path, tokenizer):
    path = written(tmp_path / "m.gguf", small("llama"), tokenizer)
    for name in ("config", "tokenizer_config", "adapter_config", "generation_config"):
        (tmp_path / f"{name}.json").write_text('{"auto_map": {"AutoTokenizer": "own.Own"}, "x": ')
    assert load_tokenizer(path)("word")["input_ids"] == tokenizer("word")["input_ids"]
    assert load_model(path).config.model_type == "llama"


def test_sizes_that_others_leave_out(tmp_path, tokenizer, monkeypatch):
    """Most files of Llamas say no size of heads, and some no base of their positions."""
    monkeypatch.setattr(gguf.GGUFWriter, "add_key_length", lambda writer, size: None)
    monkeypatch.setattr(gguf.GGUFWriter, "add_rope_freq_base", lambda writer, base: None)
    model = small("llama", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    loaded = load_model(written(tmp_path / "m.gguf", model, tokenizer))
    assert loaded.config.head_dim == 64
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_positions_that_another_writer_says_to_be_scaled(tmp_path, tokenizer, monkeypatch):
    changed_setting(monkeypatch, rope__scaling__type="linear", rope__scaling__factor=4.0)
    model = small("llama")
    loaded = load_model(written(tmp_path / "m.gguf", model, tokenizer))
    expected = model.model.rotary_emb.inv_freq / 4
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, expected)


def test_positions_that_are_not_known_are_refused(tmp_path, tokenizer, monkeypatch):
    changed_setting(monkeypatch, rope__scaling__type="yarn")
    path = written(tmp_path / "m.gguf", small("llama"), tokenizer)
    with pytest.raises(ValueError, match="positions are scaled by yarn, which cannot be read"):
        load_model(path)


def test_the_positions_of_llama_3_have_their_name(tmp_path, tokenizer):
    """With the settings of Llama 3.2: a saved model is one that other programs know."""
    rope = {
        **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0},
        **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    }
    model = small("llama", rope_parameters=rope, max_position_embeddings=131072)
    loaded = load_model(written(tmp_path / "m.gguf", model, tokenizer))
    assert loaded.config.rope_parameters == rope
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_a_file_without_a_tokenizer(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(writing, "add_tokenizer", lambda writer, model, tokenizer: None)
    path = written(tmp_path / "m.gguf", small("llama"), tokenizer)
    with pytest.raises(ValueError, match="holds no tokenizer, name another --tokenizer_name"):
        load_tokenizer(path)
    assert load_model(path).config.vocab_size == 280


def test_a_tokenizer_that_cuts_in_an_unknown_way_is_refused(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("gpt2ft.models.gguf_tokenizer._way_of_cutting", lambda made: "falcon")
    path = written(tmp_path / "m.gguf", small("llama"), tokenizer)
    with pytest.raises(ValueError, match=r"its tokenizer gpt2 \(falcon\) cannot be read"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("claimed", "fault"),
    [
        ({"num_hidden_layers": 10**9}, "says 1000000000 layers, but holds 1"),
        ({"num_attention_heads": 2}, r"tensors of another shape, blk\.0\.attn_output\.weight"),
        ({"intermediate_size": 10**12}, r"tensors of another shape, blk\.0\.ffn_down\.weight"),
        ({"hidden_size": 2**40}, "tensors of another shape"),
    ],
)
def test_sizes_that_are_not_those_of_the_tensors(claimed, fault, tmp_path, tokenizer, monkeypatch):
    """Nothing of that size is made: 10^12 rows would not fit in memory."""
    right = writing._add_shape

    def add(writer, config):
        for name, value in claimed.items():
            setattr(config, name, value)
        right(writer, config)
        for name in claimed:
            setattr(config, name, SIZES[name])

    monkeypatch.setattr(writing, "_add_shape", add)
    monkeypatch.setattr(gguf.GGUFWriter, "add_embedding_length", _as_64_bits("embedding_length"))
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_feed_forward_length", _as_64_bits("feed_forward_length")
    )
    path = written(tmp_path / "m.gguf", small("llama", head_dim=64), tokenizer)
    with pytest.raises(ValueError, match=fault):
        load_model(path)


def _as_64_bits(name):
    return lambda writer, value: writer.add_uint64(f"{writer.arch}.{name}", value)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("falcon", "its architecture is falcon, only gpt2, llama, qwen2, qwen3 can be read"),
        ("qwen2", r"lacks tensors, blk\.0\.attn_k\.bias, .*of another type"),
    ],
)
def test_another_architecture_is_refused(name, fault, tmp_path, tokenizer, monkeypatch):
    right = gguf.GGUFWriter
    monkeypatch.setattr(gguf, "GGUFWriter", lambda path, architecture: right(path, name))
    path = written(tmp_path / "m.gguf", small("llama"), tokenizer)
    with pytest.raises(ValueError, match=fault):
        load_model(path)
