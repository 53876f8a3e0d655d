"""llama.cpp itself reads what is written: pytest tests/run/test_llama_cpp.py"""

import re

import pytest
import torch
import transformers

from gpt2ft.models.loading import train_tokenizer
from gpt2ft.run import export as room
from gpt2ft.run.export import export
from gpt2ft.run.llama_cpp import running
from gpt2ft.system.signals import Stop

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
LLAMA_LIKE = {
    **{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96},
    **{"head_dim": 16, "tie_word_embeddings": False},
}
ROPE = {
    **{"rope_type": "llama3", "rope_theta": 50000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
}
CASES = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_inner": 96, "n_positions": 96},
    "llama": LLAMA_LIKE | {"rope_parameters": ROPE},
    "mistral": LLAMA_LIKE | {"sliding_window": 64},
    "qwen2": LLAMA_LIKE | {"tie_word_embeddings": True},
    "qwen3": LLAMA_LIKE,
}


@pytest.fixture(params=CASES)
def folder(request, tmp_path):
    """A small model of random weights that writes all kinds of tokens."""
    torch.manual_seed(0)
    settings = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.1}
    config = transformers.AutoConfig.for_model(request.param, **CASES[request.param], **settings)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "small")
    tokenizer = train_tokenizer(["one and another word of many words, any other"], vocab_size=280)
    tokenizer.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_it_writes_what_the_model_writes(type, folder, tmp_path, capsys):
    assert export(str(folder), tmp_path / "m.gguf", type=type, stop=Stop()) == 0
    said = re.search(r"llama\.cpp: (\d+) of (\d+) greedy tokens", capsys.readouterr().out)
    assert int(said[2]) > 100 and int(said[1]) >= 0.9 * int(said[2])


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_what_llama_cpp_reads_otherwise_is_refused(folder, tmp_path, monkeypatch):
    """Factors of positions that transformers passes over: only llama.cpp shows that they lack."""
    right = room.gguf_reading.read_model

    def read_as_the_model(path, config):
        model = right(path, config)
        model.model.rotary_emb = source.model.rotary_emb
        return model

    source = transformers.AutoModelForCausalLM.from_pretrained(folder)
    monkeypatch.setattr(room.gguf, "_rope_factors", lambda model: None)
    monkeypatch.setattr(room.gguf_reading, "read_model", read_as_the_model)
    with pytest.raises(ValueError, match=r"read by llama\.cpp, differs .* nats away"):
        export(str(folder), tmp_path / "m.gguf", type="f16", stop=Stop())
    assert list(tmp_path.iterdir()) == [folder]


def test_a_damaged_file(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(99))
    loading = running(tmp_path / "m.gguf", 64)
    with pytest.raises(ValueError, match="cannot load the file"), loading:
        pass
