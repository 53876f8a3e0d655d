"""Runs that train a LoRA adapter, or parts of a model: pytest tests/whole/test_lora.py"""

import hashlib
import json
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from gpt2ft import load_checkpoint, load_model, lr_at, train
from gpt2ft.checkpoint.checkpoints import checkpoint_bytes
from gpt2ft.checkpoint.folders import find_checkpoint, is_finished
from gpt2ft.checkpoint.manifest import with_sha256
from gpt2ft.config import TrainConfig
from gpt2ft.run.build import build
from gpt2ft.run.finetune import finetune
from gpt2ft.run.rewind import rewind
from gpt2ft.run.summary import description
from gpt2ft.run.verify_resume import verify_resume
from gpt2ft.system.signals import Stop
from tests.support.families import FAMILIES
from tests.support.lines import LINES
from tests.support.processes import together
from tests.support.tiny import tiny_gpt2

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient:FutureWarning")  # of peft

IDS = torch.tensor([[5, 80, 3, 200, 17, 42, 9, 101]])
TARGETS = {"gpt2": "c_attn", "llama": "q_proj", "gpt_neox": "query_key_value"}


@pytest.fixture
def settings(model_folder, tmp_path):
    (tmp_path / "own.txt").write_text("".join(LINES[:120]), encoding="utf-8")
    return {
        "model_name_or_path": str(model_folder),
        "train_file": [str(tmp_path / "own.txt")],
        "block_size": 32,
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "save_steps": 3,
        "lora_r": 4,
        "lora_dropout": 0.1,
        "learning_rate": 1e-2,
        "max_eval_samples": 4,
        "precision": "fp32",
        "device": "cpu",
        "output_dir": str(tmp_path / "out"),
    }


def finished_by(settings):
    """Carry out a run, in each of several processes."""
    return finetune(TrainConfig(**settings))


def sha256(*paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", TARGETS)
def test_losses_are_those_of_peft_in_a_loop_by_hand(kind, settings, tmp_path, model_folder):
    torch.manual_seed(0)
    if kind != "gpt2":
        sizes = {**FAMILIES["gpt_neox"], "intermediate_size": 64, "vocab_size": 257}
        config = transformers.AutoConfig.for_model(kind, max_position_embeddings=64, **sizes)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(model_folder)
    run = build(TrainConfig(**{**settings, "lora_dropout": 0.0, "dropout": 0.0}))
    ours = [
        result.loss.item()
        for result in train(run.state, run.data, max_steps=6, **run.loop_settings())
    ]

    base = load_model(str(model_folder), dropout=0.0)
    torch.manual_seed(42)
    wanted = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=run.config.lora_target_modules,
        fan_in_fan_out=kind == "gpt2",
    )
    model = peft.get_peft_model(base, wanted).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    theirs = []
    for step in range(6):
        optimizer.param_groups[0]["lr"] = lr_at(step, max_steps=6, learning_rate=1e-2)
        loss = model(**run.data[0, step], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours[-1] < ours[0]
    assert TARGETS[kind] in run.config.lora_target_modules


def test_stopped_and_resumed_it_ends_the_same(settings, tmp_path, capsys):
    """Dropout is on, in the model and in the adapter."""
    out, again = tmp_path / "out", tmp_path / "again"
    assert finetune(TrainConfig(**settings)) == 0
    shown = capsys.readouterr().out
    assert "1,024 of 36,768 parameters" in shown and "trained by LoRA of rank 4 at c_attn" in shown
    assert is_finished(out)
    assert not (out / "model.safetensors").exists()
    adapter = json.loads((out / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == settings["model_name_or_path"]
    assert (adapter["r"], adapter["lora_alpha"], adapter["fan_in_fan_out"]) == (4, 8, True)

    shutil.copytree(out / "checkpoint-3", again / "checkpoint-3")
    options = {**settings, "output_dir": str(again), "resume": "newest"}
    assert finetune(TrainConfig(**options)) == 0
    names = ("optimizer.safetensors", "trained.safetensors", "adapter_model.safetensors")
    results = [
        sha256(*(folder / "checkpoint-6" / name for name in names)) for folder in (out, again)
    ]
    assert results[0] == results[1]
    assert sha256(out / names[2]) == sha256(again / names[2])

    base = transformers.AutoModelForCausalLM.from_pretrained(settings["model_name_or_path"])
    by_peft = logits(peft.PeftModel.from_pretrained(base, out))
    torch.testing.assert_close(logits(load_model(str(out))), by_peft, atol=1e-5, rtol=0)
    checkpoint = logits(load_model(str(out / "checkpoint-6")))
    assert torch.equal(checkpoint, logits(load_model(str(out))))

    assert rewind(out, 5, tmp_path / "then", stop=Stop()) == 0
    assert (tmp_path / "then" / "adapter_model.safetensors").is_file()

    # Resumed once more to merge: a whole model takes the place of the adapter.
    options = {**settings, "resume": "newest", "merge_lora": True}
    assert finetune(TrainConfig(**options)) == 0
    assert not list(out.glob("adapter_*"))
    merged = transformers.AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(merged), by_peft, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(settings, tmp_path):
    one, two = tmp_path / "out", tmp_path / "two"
    options = {**settings, "micro_batches_per_step": 2, "threads": 1, "freeze": ["*.h.0.*"]}
    assert finetune(TrainConfig(**options)) == 0
    assert together(2, finished_by, {**options, "output_dir": str(two)}) == [0, 0]
    names = ("adapter_model.safetensors", "checkpoint-6/optimizer.safetensors")
    assert sha256(*(one / name for name in names)) == sha256(*(two / name for name in names))


def test_checkpoints_are_small_and_their_size_is_known(settings, tmp_path):
    run = build(TrainConfig(**settings))
    trained = sum(p.numel() for p in run.state.model.parameters() if p.requires_grad)
    assert trained == 2 * (32 * 4 + 4 * 96)
    # The adapter twice, and two moments.
    assert checkpoint_bytes(run.state) == pytest.approx(4 * trained * 4, rel=0.01)
    assert finetune(TrainConfig(**settings)) == 0
    files = ("adapter_model.safetensors", "trained.safetensors", "optimizer.safetensors")
    sizes = [(tmp_path / "out/checkpoint-6" / name).stat().st_size for name in files]
    assert sum(sizes) == pytest.approx(16 * trained, rel=0.25)  # and names


def test_verify_resume_and_the_seed(settings, capsys):
    assert verify_resume(TrainConfig(**settings), steps=2) == 0
    assert "resuming is exact" in capsys.readouterr().out
    weights = [
        dict(build(TrainConfig(**{**settings, "seed": seed})).state.model.named_parameters())
        for seed in (1, 1, 2)
    ]
    name = "transformer.h.0.attn.c_attn.lora_A.default.weight"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


def test_another_model_under_the_adapter_is_refused(settings, model_folder, tmp_path):
    assert finetune(TrainConfig(**{**settings, "max_steps": 3})) == 0
    tiny_gpt2(seed=5, dropout=0.1).save_pretrained(model_folder)
    options = {**settings, "resume": "newest"}
    with pytest.raises(ValueError, match=r"are not those that the adapter in .*checkpoint-3 was"):
        finetune(TrainConfig(**options))
    with pytest.raises(ValueError, match="are not those that the adapter"):
        rewind(tmp_path / "out", 3, tmp_path / "then", stop=Stop())


def test_an_adapter_can_be_trained_on_whole_but_gets_no_adapter(settings, tmp_path):
    assert finetune(TrainConfig(**{**settings, "max_steps": 3})) == 0
    options = {**settings, "model_name_or_path": settings["output_dir"], "max_steps": 1}
    options["output_dir"] = str(tmp_path / "next")
    with pytest.raises(ValueError, match=r"--lora_r needs a whole model, and .* is an adapter"):
        build(TrainConfig(**options))
    run = build(TrainConfig(**{**options, "lora_r": None, "lora_dropout": 0.0}))
    assert all(p.requires_grad for p in run.state.model.parameters())
    expected = logits(load_model(settings["output_dir"]))
    torch.testing.assert_close(logits(run.state.model), expected, atol=1e-5, rtol=0)
    assert "35,744 parameters, fp32" in description(run)


def test_what_is_frozen_stays_and_resuming_is_exact(settings, tmp_path):
    whole = {**settings, "lora_r": None, "lora_dropout": 0.0, "freeze": ["*.wte.*", "*.h.0.*"]}
    assert finetune(TrainConfig(**whole)) == 0
    path, _ = find_checkpoint(tmp_path / "out")
    before = load_file(settings["model_name_or_path"] + "/model.safetensors")
    after = load_file(path / "model.safetensors")
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {name for name in after if ".wte." in name or ".h.0." in name}
    shutil.copytree(tmp_path / "out/checkpoint-3", tmp_path / "again/checkpoint-3")
    options = {**whole, "output_dir": str(tmp_path / "again"), "resume": "newest"}
    assert finetune(TrainConfig(**options)) == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = (tmp_path / run / "checkpoint-6" / name for run in ("out", "again"))
        assert sha256(one) == sha256(other)
    run = build(TrainConfig(**{**whole, "resume": None}), path)
    load_checkpoint(path, run.state)
    assert not run.state.model.transformer.wte.weight.requires_grad


def test_a_checkpoint_of_a_version_without_lora_can_be_resumed(settings, tmp_path):
    whole = {**settings, "lora_r": None, "lora_dropout": 0.0, "max_steps": 3}
    assert finetune(TrainConfig(**whole)) == 0
    path = tmp_path / "out/checkpoint-3/manifest.json"
    manifest = json.loads(path.read_text())
    for name in list(manifest["run"]["config"]):
        if "lora" in name or name == "freeze":
            del manifest["run"]["config"][name]
    path.write_text(json.dumps(with_sha256(manifest)))
    assert finetune(TrainConfig(**{**whole, "max_steps": 4, "resume": "newest"})) == 0


def test_the_learning_rate_of_lora_is_higher_than_that_of_all_weights(settings, model_folder):
    options = {**settings, "learning_rate": None}
    assert build(TrainConfig(**options)).config.learning_rate == 2e-4
    assert build(TrainConfig(**{**options, "learning_rate": 1e-5})).config.learning_rate == 1e-5
    path = model_folder / "config.json"
    config = {**json.loads(path.read_text()), "recommended_learning_rate": 1e-3}
    path.write_text(json.dumps(config))
    assert build(TrainConfig(**options)).config.learning_rate == 1e-2
