"""Runs that begin with the weights of a GGUF file: pytest tests/whole/test_from_gguf.py"""

import shutil

import pytest
import torch
import transformers

from gpt2ft import load_model, load_tokenizer
from gpt2ft.cli.main import main
from gpt2ft.config import TrainConfig
from gpt2ft.models.gguf import write_gguf
from gpt2ft.run.build import build
from gpt2ft.run.finetune import finetune
from gpt2ft.run.reproduce import reproduce
from gpt2ft.run.summary import description
from gpt2ft.run.verify_resume import verify_resume
from gpt2ft.system.signals import Stop
from tests.support.lines import LINES

pytest.importorskip("gguf")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient:FutureWarning")  # of peft

# 256 x 160 positions of 32 bits; the tokens and 4 blocks of 12 x 160 x 160 weights of 8.5.
POSITIONS, OTHERS = 256 * 160, 8192 * 160 + 4 * 12 * 160**2
BITS = (32 * POSITIONS + 8.5 * OTHERS) / (POSITIONS + OTHERS)
SAID = f"m.gguf holds weights of {BITS:.3g} bits (Q8_0, F32); they are read as fp32"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """gpt2-mini in 8 bits, and a text, alone in a folder."""
    folder = tmp_path_factory.mktemp("made")
    model, tokenizer = load_model("gpt2-mini"), load_tokenizer("gpt2-mini")
    write_gguf(folder / "m.gguf", model, tokenizer, type="q8_0", metadata={})
    (folder / "own.txt").write_text("".join(LINES[:120]), encoding="utf-8")
    return folder


@pytest.fixture
def settings(made, tmp_path, monkeypatch):
    """A short run; the file is named from within its folder, without a path."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "made"))
    return {
        **{"model_name_or_path": "m.gguf", "train_file": ["own.txt"], "output_dir": "out"},
        **{"block_size": 32, "per_device_train_batch_size": 2, "max_steps": 4, "save_steps": 2},
        **{"dropout": 0.1, "max_eval_samples": 4, "precision": "fp32", "device": "cpu"},
    }


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_run_is_saved_as_any_other_and_resumed_exactly(settings, tmp_path, monkeypatch, capsys):
    assert finetune(TrainConfig(**settings)) == 0
    assert capsys.readouterr().out.count("they are read as fp32") == 1
    folder = tmp_path / "made"
    out, stopped = folder / "out", shutil.copytree(folder / "out", folder / "stopped")
    shutil.rmtree(stopped / "checkpoint-4")
    (stopped / "model.safetensors").unlink()
    (folder / "m.gguf").rename(folder / "gone.gguf")  # a checkpoint holds the weights
    monkeypatch.chdir(tmp_path)
    again = {**settings, "model_name_or_path": str(folder / "m.gguf"), "resume": "newest"}
    again |= {"train_file": [str(folder / "own.txt")], "output_dir": str(stopped)}
    assert finetune(TrainConfig(**again)) == 0
    said = capsys.readouterr().out
    assert "resumed from" in said and "read as fp32" not in said
    assert weights(stopped) == weights(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    before = load_model(str(folder / "gone.gguf"))
    assert not torch.equal(model.transformer.wte.weight, before.transformer.wte.weight)
    ids = tokenizer("It was", return_tensors="pt")
    expected = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    arguments = ["--model_name_or_path", str(out), "-p", "It was", "--max_new_tokens", "8"]
    assert main(["generate", *arguments, "--greedy", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == tokenizer.decode(expected[0]).strip()


def test_what_is_said_of_the_weights(settings):
    assert f"note: {SAID}" in description(build(TrainConfig(**settings))).splitlines()


def test_resuming_is_exact(settings):
    assert verify_resume(TrainConfig(**settings), steps=2) == 0


def test_a_run_is_reproduced(settings, tmp_path):
    finetune(TrainConfig(**settings))
    config = TrainConfig(**settings | {"output_dir": "again"})
    assert reproduce(tmp_path / "made" / "out", config, stop=Stop()) == 0
    assert weights(tmp_path / "made" / "again") == weights(tmp_path / "made" / "out")


def test_an_adapter_finds_the_file_again(settings, tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    lora = {**settings, "lora_r": 2, "learning_rate": 1e-2}
    assert finetune(TrainConfig(**lora)) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)  # its path is written down whole
    adapted, plain = load_model("made/out"), load_model("made/m.gguf")
    ids = torch.arange(1, 20)[None]
    with torch.inference_mode():
        assert (adapted(ids).logits - plain(ids).logits).abs().max() > 1e-3
    arguments = ["--model_name_or_path", "made/out", "-p", "It was", "--max_new_tokens", "4"]
    assert main(["generate", *arguments, "--greedy", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip().startswith("It was")
    monkeypatch.chdir("made")
    with pytest.raises(ValueError, match="needs a whole model, and out is an adapter itself"):
        build(TrainConfig(**lora | {"model_name_or_path": "out"}))


@pytest.mark.parametrize("way", ["--chat", "--prompt"])
def test_it_generates_and_the_hub_is_not_asked(way, settings, monkeypatch, capsys):
    asked = "gpt2ft.cli.process.go_offline_if_unreachable"
    monkeypatch.setattr(asked, lambda: pytest.fail("the hub was asked"))
    arguments = ["--model_name_or_path", "m.gguf", "-p", "It was", "--max_new_tokens", "4"]
    arguments += ["--chat"] if way == "--chat" else []
    assert main(["generate", *arguments, "--greedy", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() and printed.err.count("they are read as fp32") == 1


def test_it_is_evaluated_beside_another(settings, capsys):
    arguments = ["--baseline", "gpt2-mini", "--validation_file", "own.txt", "--json"]
    assert main(["evaluate", "m.gguf", *arguments, "--device", "cpu"]) == 0
    assert "they are read as fp32" in capsys.readouterr().err


def test_its_tokenizer_serves_another_model(settings):
    own = {**settings, "model_name_or_path": "gpt2-mini", "tokenizer_name": "m.gguf"}
    assert build(TrainConfig(**own)).digests == build(TrainConfig(**settings)).digests


def test_a_run_may_not_replace_the_file(settings):
    here = {**settings, "output_dir": ".", "overwrite_output_dir": True}
    with pytest.raises(ValueError, match=r"--output_dir \. holds the model itself, name another"):
        finetune(TrainConfig(**here))
