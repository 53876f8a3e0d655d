"""Runs on conversations and on corpora with weights: pytest tests/run/test_chats.py"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpt2ft import causal_lm_loss, count_targets
from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.records import read_records
from gpt2ft.models.loading import load_model, load_tokenizer
from gpt2ft.run import output_folder
from gpt2ft.run.build import build
from gpt2ft.run.finetune import finetune
from gpt2ft.run.observe import chosen_prompts

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve"]


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    talks = [
        [
            {"from": "human", "value": f"I am {name}, {i}."},
            {"from": "gpt", "value": f"Hi {name}!"},
        ]
        for i in range(8)
        for name in NAMES
    ]
    lines = (json.dumps({"conversations": talk}) + "\n" for talk in talks)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def of_chats(settings, chats):
    return {**settings, "train_file": [chats], "block_size": 64, "max_steps": 6, "dropout": 0.1}


def trained(output_dir):
    return load_file(Path(output_dir) / "model.safetensors")


def test_the_loss_is_that_of_transformers_on_the_answers(of_chats):
    run = build(TrainConfig(**{**of_chats, "packing": False, "dropout": 0.0}))
    model = run.state.model.eval()
    batch = run.data[0, 0]
    total = n = 0.0
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        n_answers = int((labels[1:] != -100).sum())
        # Theirs is a mean over the answers of one row.
        total += model(input_ids=ids[None], labels=labels[None]).loss.item() * n_answers
        n += n_answers
    assert count_targets(batch) == n
    assert causal_lm_loss(model, batch).item() == pytest.approx(total, rel=1e-5)
    text = run.tokenizer.decode(batch["input_ids"][0][batch["labels"][0] != -100])
    assert text.startswith("Hi ") and text.endswith("!<|endoftext|>")


def test_a_stopped_run_ends_with_the_same_bits_and_all_is_written_down(of_chats, tmp_path, capsys):
    finetune(TrainConfig(**of_chats))
    shown = capsys.readouterr().out
    assert "note: the model has no chat template, and gets a plain one" in shown
    assert "| ⟦### User:\n| I am " in shown and "⟧Hi " in shown
    assert "answers alone" in shown and "generate.py -i --chat" in shown
    other = {**of_chats, "output_dir": str(tmp_path / "other")}
    finetune(TrainConfig(**{**other, "max_steps": 4, "lr_scheduler_type": "constant"}))
    finished = load_tokenizer(of_chats["output_dir"])
    assert finished.chat_template and load_tokenizer(other["output_dir"]).chat_template
    model = load_model(of_chats["output_dir"])
    assert model.generation_config.eos_token_id == [finished.eos_token_id]
    samples = read_records(Path(of_chats["output_dir"]) / "samples.jsonl")
    assert samples[0]["prompt"].startswith("### User:\nI am ")
    assert samples[0]["prompt"].endswith("### Assistant:\n")

    constant = {**of_chats, "output_dir": str(tmp_path / "whole"), "lr_scheduler_type": "constant"}
    finetune(TrainConfig(**constant))
    finetune(TrainConfig(**{**other, "resume": "newest", "lr_scheduler_type": "constant"}))
    for name, tensor in trained(constant["output_dir"]).items():
        assert torch.equal(tensor, trained(other["output_dir"])[name])


def test_questions_may_be_given(of_chats):
    run = build(TrainConfig(**of_chats))
    (default,) = chosen_prompts(run)
    assert run.tokenizer.decode(list(default.ids)).endswith("### Assistant:\n")
    run.config.sample_prompts = ["Who am I?"]
    (named,) = chosen_prompts(run)
    assert named.text == "### User:\nWho am I?\n\n### Assistant:\n"


def test_corpora_with_weights(settings, chats, own_text, tmp_path, capsys):
    weights = [f"{own_text}:3", f"{chats}:1"]
    config = TrainConfig(**{**settings, "train_file": weights, "validation_file": [own_text]})
    finetune(config)
    shown = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r": ([\d.]+)% of an epoch", shown)]
    assert shares == pytest.approx([75, 25], abs=1)
    facts = json.loads((Path(config.output_dir) / "run.json").read_text(encoding="utf-8"))
    counts = {each["files"]: each["trained_on"] for each in facts["corpora"]}
    run = build(config)
    numbers = [n for i in range(2 * 12) for n in run.data.sample_numbers(*divmod(i, len(run.data)))]
    n_texts = sum(n < len(run.data.samples.parts[0]) for n in numbers)
    assert counts == {own_text: n_texts, chats: len(numbers) - n_texts}
    assert 0.6 < n_texts / len(numbers) < 0.9


def test_held_out_texts_and_conversations_together_are_refused(settings, chats, own_text):
    weights = [f"{own_text}:3", f"{chats}:1"]
    with pytest.raises(ValueError, match=r"both texts and conversations.*--validation_file"):
        build(TrainConfig(**{**settings, "train_file": weights}))


def test_texts_and_conversations_with_weights(settings, chats, own_text):
    weights = [f"{own_text}:3", f"{chats}:1"]
    run = build(TrainConfig(**{**settings, "train_file": weights, "validation_file": [own_text]}))
    assert run.has_chats and run.tokenizer.chat_template
    (default,) = chosen_prompts(run)  # the beginning of the held-out text, which is no chat
    assert default.ids is None and default.text


def test_all_is_learned_and_the_first_words_are_the_prompt(of_chats):
    run = build(TrainConfig(**{**of_chats, "train_on": "prompt_and_answer"}))
    (default,) = chosen_prompts(run)
    assert default.text.startswith("### User:\nI am ") and len(default.text) > 20


def test_a_run_of_an_earlier_version_goes_on(settings, monkeypatch):
    """Its checkpoints do not know the settings that came later, which have their defaults."""
    record = build(TrainConfig(**settings)).record()
    earlier = {**record, "config": dict(record["config"])}
    for name in ("train_on", "encoding", "deduplicate", "prompt_column", "optimizer", "lora_r"):
        del earlier["config"][name]
    monkeypatch.setattr(output_folder, "recorded_run", lambda checkpoint: earlier)
    output_folder.refuse_changes(Path("checkpoint-4"), record)
    changed = {**record, "config": {**record["config"], "train_on": "prompt_and_answer"}}
    with pytest.raises(ValueError, match="train_on: answer then, prompt_and_answer now"):
        output_folder.refuse_changes(Path("checkpoint-4"), changed)


def test_files_of_both_kinds_in_a_stream_are_refused(settings, chats, own_text):
    both = {"train_file": [chats, own_text], "streaming": True, "files_at_once": 2}
    with pytest.raises(ValueError, match="name those of one kind to --streaming"):
        build(TrainConfig(**{**settings, **both, "validation_split_percentage": 0}))
