"""`gpt2ft export`: pytest tests/cli/test_export.py"""

import shutil
import sys

import numpy as np
import pytest
import torch
import transformers

from gpt2ft import load_tokenizer
from gpt2ft.cli.main import main
from gpt2ft.config import TrainConfig
from gpt2ft.data.chat_template import PLAIN_TEMPLATE
from gpt2ft.models import gguf, gguf_tokenizer
from gpt2ft.models.loading import load_model, train_tokenizer
from gpt2ft.run import llama_cpp
from gpt2ft.run.export import export as write_and_check
from gpt2ft.run.recipe import SETTINGS_FILE, to_yaml
from gpt2ft.system.signals import Stop, Stopped

pytest.importorskip("gguf")
SIZES = {
    **{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 300},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96},
    **{"head_dim": 16, "bos_token_id": 0, "eos_token_id": 0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a Llama of random weights and a tokenizer of 280 entries."""
    folder = tmp_path_factory.mktemp("made") / "small"
    tokenizer = train_tokenizer(["one and another word of many words, any other"], vocab_size=280)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, initializer_range=0.3)
    transformers.LlamaForCausalLM(config).half().save_pretrained(folder)  # f16 keeps all
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "small")


@pytest.fixture
def without_llama_cpp(monkeypatch):
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)


def export(capsys, *arguments):
    """Exit status, and what is printed."""
    status = main(["export", *map(str, arguments), "--threads", "1"])
    return status, *capsys.readouterr()


@pytest.mark.usefixtures("without_llama_cpp")
def test_a_file_is_written_and_said_to_be_the_model(folder, capsys):
    status, out, err = export(capsys, folder, "--to", "gguf")
    assert status == 0 and err == ""
    assert "read again by transformers: 480 of 480 greedy tokens the same" in out
    path = folder.with_name("small-f16.gguf")
    assert f"the model is in {path}" in out and "pip install xllamacpp" in out
    assert sorted(folder.parent.iterdir()) == [folder, path]
    assert load_model(str(path)).config.hidden_size == 64


@pytest.mark.usefixtures("without_llama_cpp")
def test_eight_bits_into_a_file_of_that_name(folder, tmp_path, capsys):
    target = tmp_path / "new" / "my.gguf"
    assert export(capsys, folder, "--type", "q8_0", "-o", target)[0] == 0
    assert [path.name for path in target.parent.iterdir()] == ["my.gguf"]


@pytest.mark.usefixtures("without_llama_cpp")
def test_an_adapter_is_merged(made, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    names = ["q_proj", "v_proj"]
    model.add_adapter(peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    assert export(capsys, tmp_path / "adapter")[0] == 0
    ids = torch.arange(40)[None]
    read = load_model(str(tmp_path / "adapter-f16.gguf"))
    torch.testing.assert_close(read(ids).logits, model(ids).logits, atol=0.05, rtol=0.01)


def scaled(name, tensor):
    return tensor * 1.01 if name == "blk.1.ffn_down.weight" else tensor


def turned(name, tensor):
    return tensor.T.copy() if name == "blk.0.attn_output.weight" else tensor


def in_another_order(name, tensor):
    """As if the rows of a Llama's keys were left as they are in transformers."""
    if name != "blk.1.attn_k.weight":
        return tensor
    return tensor.reshape(2, 8, 2, 64).swapaxes(1, 2).reshape(32, 64)


def not_a_number(name, tensor):
    return np.full_like(tensor, np.nan) if name == "output_norm.weight" else tensor


@pytest.mark.parametrize("damage", [scaled, turned, in_another_order, not_a_number])
@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_a_tensor_that_is_not_the_models(damage, type, folder, capsys, monkeypatch):
    right = gguf._tensors
    monkeypatch.setattr(
        gguf, "_tensors", lambda model: ((n, damage(n, tensor)) for n, tensor in right(model))
    )
    status, out, err = export(capsys, folder, "--type", type)
    assert status == 1 and "the model is in" not in out
    assert "is not the model's; deleted" in err
    assert list(folder.parent.iterdir()) == [folder]


def test_a_tensor_that_is_missing(folder, capsys, monkeypatch):
    right = gguf._tensors
    monkeypatch.setattr(
        gguf, "_tensors", lambda model: (pair for pair in right(model) if "attn_v" not in pair[0])
    )
    status, _, err = export(capsys, folder)
    assert status == 1 and "lacks tensors" in err and "attn_v" in err
    assert list(folder.parent.iterdir()) == [folder]


def test_a_setting_that_is_not_the_models(folder, capsys, monkeypatch):
    """The weights are right, and yet the model computes something else."""
    monkeypatch.setattr(gguf, "_rope", lambda config: {"rope_theta": 100.0})
    status, _, err = export(capsys, folder)
    assert (
        status == 1 and "divergence of the next token is" in err and "nats, at most 0.0001" in err
    )
    assert list(folder.parent.iterdir()) == [folder]


def test_tokens_that_are_not_the_models(folder, capsys, monkeypatch):
    right = gguf_tokenizer._tokens

    def exchanged(*arguments):
        tokens, kinds = right(*arguments)
        a, b = tokens.index("a"), tokens.index("b")
        tokens[a], tokens[b] = tokens[b], tokens[a]
        return tokens, kinds

    monkeypatch.setattr(gguf_tokenizer, "_tokens", exchanged)
    status, _, err = export(capsys, folder)
    assert status == 1 and "is the tokens [" in err and "deleted" in err
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.usefixtures("without_llama_cpp")
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, 'TEMPLATE """{{ .Prompt }}"""\n'),
        (
            PLAIN_TEMPLATE,
            '{{ .Content }}{{ if eq .Role "assistant" }}{{ "<|endoftext|>" }}{{ end }}',
        ),
        ("{{ messages }}", ""),
    ],
    ids=["none", "ours", "another"],
)
def test_a_modelfile(template, expected, folder, capsys):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    status, out, _ = export(capsys, folder, "--ollama")
    assert status == 0 and "ollama create small-f16 -f" in out
    text = (folder.parent / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./small-f16.gguf\n")
    assert text.endswith('PARAMETER stop "<|endoftext|>"\n')
    assert expected in text and ("TEMPLATE" in text) == bool(expected)
    assert ("left to Ollama" in out) == (not expected)


def test_a_file_that_exists_stays(folder, capsys):
    path = folder.with_name("small-f16.gguf")
    path.write_text("mine")
    status, _, err = export(capsys, folder)
    assert status == 1 and f"{path} exists, name another file with -o" in err
    assert path.read_text() == "mine"


def test_stopped_it_leaves_nothing(folder):
    stop = Stop()
    stop.signal = 15
    with pytest.raises(Stopped):
        write_and_check(str(folder), folder.with_name("m.gguf"), type="f16", stop=stop)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_run_that_has_not_finished(folder, capsys):
    (folder / SETTINGS_FILE).write_text(to_yaml(TrainConfig()), encoding="utf-8")
    (folder / "checkpoint-20").mkdir()
    status, _, err = export(capsys, folder)
    assert (
        status == 2 and f"the run in {folder} has not finished: go on with it, gpt2ft train" in err
    )
    assert str(folder / "checkpoint-20") in err


def test_another_type_is_refused(tmp_path, capsys):
    config = transformers.AutoConfig.for_model(
        **{"model_type": "opt", "num_hidden_layers": 1, "hidden_size": 32, "ffn_dim": 32},
        **{"num_attention_heads": 2, "word_embed_proj_dim": 32, "vocab_size": 280},
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "opt")
    train_tokenizer(["one and another"], vocab_size=270).save_pretrained(tmp_path / "opt")
    status, _, err = export(capsys, tmp_path / "opt")
    assert status == 1 and "only gpt2, llama, mistral, qwen2, qwen3" in err


def test_the_library_that_is_missing_is_named(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    status, _, err = export(capsys, folder)
    assert status == 1 and "pip install 'gpt2ft[gguf]'" in err
