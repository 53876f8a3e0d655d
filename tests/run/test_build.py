"""Every setting arrives where it belongs: pytest tests/run/test_build.py"""

import dataclasses
import json

import pytest
import torch

from gpt2ft import Sampling
from gpt2ft.cli.main import main
from gpt2ft.config import TrainConfig
from gpt2ft.kernels import dropout
from gpt2ft.run import finetune, texts
from gpt2ft.run.build import build
from gpt2ft.run.recipe import with_overrides

SETTINGS = {
    "block_size": 16,
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.25,
    "weight_decay": 0.125,
    "adam_beta1": 0.5,
    "adam_beta2": 0.75,
    "adam_epsilon": 0.0625,
    "max_grad_norm": 0.375,
    "dropout": 0.25,
    "max_eval_samples": 7,
    "max_train_samples": 40,
    "num_train_epochs": 2.5,
    "precision": "bf16",
    "seed": 17,
}


@pytest.fixture
def config(model_folder, tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("some words of a text to train on\n" * 200, encoding="utf-8")
    return TrainConfig(
        model_name_or_path=str(model_folder),
        train_file=[str(text)],
        output_dir=str(tmp_path / "out"),
        **SETTINGS,
    )


def test_what_a_run_is_made_of(config):
    run = build(config)
    group = run.state.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["eps"]) == (0.25, 0.125, 0.0625)
    assert tuple(group["betas"]) == (0.5, 0.75)
    kinds = (torch.nn.Dropout, dropout.Dropout)
    dropouts = [m.p for m in run.state.model.modules() if isinstance(m, kinds)]
    assert set(dropouts) == {0.25}
    assert (len(run.data.samples), len(run.held_out.samples)) == (40, 7)
    assert run.data[0, 0]["input_ids"].shape == (3, 16)
    assert run.held_out[0, 0]["input_ids"].shape == (5, 16)
    assert run.max_steps == 18  # 14 micro-batches, so 7 steps an epoch, two and a half times
    assert run.state.precision.name == "bf16"
    other = build(TrainConfig(**{**vars(config), "seed": 18}))
    assert run.data.sample_numbers(0, 0).tolist() != other.data.sample_numbers(0, 0).tolist()


def test_what_the_loop_is_given(config, monkeypatch):
    given = {}

    def train(state, data, **settings):
        given.update(settings)
        return iter(())

    monkeypatch.setattr(finetune, "train", train)
    scheduled = {"lr_scheduler_type": "cosine", "warmup_ratio": 0.5, "max_steps": 8}
    finetune.finetune(TrainConfig(**{**vars(config), **scheduled}))
    assert given["max_steps"] == 8
    assert given["micro_batches_per_step"] == 2 and given["max_grad_norm"] == 0.375
    rates = [given["learning_rate"](step) for step in (0, 2, 4, 6, 8)]
    assert rates == pytest.approx([0.0, 0.125, 0.25, 0.125, 0.0])


def test_what_generation_is_given(model_folder, tmp_path, monkeypatch, capsys):
    given = {}
    (tmp_path / "corpus.txt").write_text("abc", encoding="utf-8")

    def extend(model, tokenizer, texts, sampling, *, corpus):
        given.update(sampling=sampling, prompt=texts[0].prompt, seed=texts[0].seed)
        given.update(tokens_not_to_copy=corpus.n_tokens)
        yield ["!"]

    monkeypatch.setattr("gpt2ft.cli.continue_texts.extend", extend)
    flags = (
        "--top_k 7 --top_p 0.5 --min_p 0.1 --typical_p 0.9 --temperature 0.25 --seed 3 "
        "--repetition_penalty 1.5 --no_repeat_ngram_size 2 --bad_words no --stop_strings . ! "
        f"--max_verbatim 6 --corpus {tmp_path}/corpus.txt"
    )
    arguments = ["-p", "a", "--model_name_or_path", str(model_folder), "--max_new_tokens", "9"]
    assert main(["generate", *arguments, *flags.split(), "--greedy"]) == 0
    expected = {
        "max_new_tokens": 9,
        "do_sample": False,
        "temperature": 0.25,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "max_verbatim": 6,
        "bad_words": ("no",),
        "stop_strings": (".", "!"),
    }
    assert given.pop("tokens_not_to_copy") == len("abc") + 1
    assert given == {"prompt": "a", "seed": 3, "sampling": Sampling(**expected)}
    assert expected.keys() == {field.name for field in dataclasses.fields(Sampling)}
    assert capsys.readouterr().out == "a!\n"


def test_a_setting_of_sampling_that_is_none_is_refused_where_it_is_written():
    with pytest.raises(TypeError, match="temprature"):
        Sampling(temprature=0.5)
    with pytest.raises(ValueError, match="top_p is 2, give a number <= 1"):
        Sampling(top_p=2)
    with pytest.raises(ValueError, match="stop_strings is 'end', give a sequence"):
        Sampling(stop_strings="end")


def test_the_corpus_gets_its_settings(config, monkeypatch):
    given = {}
    original = texts.load_corpus

    def load_corpus(**settings):
        given.update(settings)
        return original(**settings)

    monkeypatch.setattr(texts, "load_corpus", load_corpus)
    rows = {"packing": False, "row_separator": "none", "validation_split_percentage": 20.0}
    run = build(TrainConfig(**{**vars(config), **rows}))
    assert given["lines"] and given["contiguous"] and given["seed"] == 17
    assert given["validation_split_percentage"] == 20.0
    assert type(run.data.samples).__name__ == "Rows"


@pytest.mark.parametrize(
    ("given", "recommended", "expected"),
    [
        (None, None, 5e-5),
        (None, 1e-3, 1e-3),
        (0.25, 1e-3, 0.25),
        (0.0, 1e-3, 0.0),
        (None, "much", 5e-5),
        (None, float("nan"), 5e-5),
    ],
)
def test_a_model_recommends_a_learning_rate(
    given, recommended, expected, config, model_folder, capsys
):
    path = model_folder / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "recommended_learning_rate": recommended})
    )
    run = build(dataclasses.replace(config, learning_rate=given))
    assert run.loop_settings()["learning_rate"](0) == expected
    assert run.record()["config"]["learning_rate"] == expected


def test_the_built_in_model_recommends_its_own():
    text = {"dataset_name": "python-reference", "max_train_samples": 8, "max_eval_samples": 1}
    run = build(TrainConfig(model_name_or_path="gpt2-mini", block_size=64, **text))
    assert run.config.learning_rate == 1e-3


def test_the_rate_of_a_model_is_for_adamw(config):
    """Adafactor's is relative to the weights, and a recipe's is for the recipe's optimizer."""
    given = dataclasses.replace(config, learning_rate=None, adam_beta1=0.9, optimizer="adafactor")
    run = build(given)
    assert run.config.learning_rate == 1e-3
    assert isinstance(run.state.optimizer, torch.optim.Adafactor)
    recipe = {"learning_rate": 2e-3, "seed": 3}
    other = with_overrides(recipe, {"optimizer": "adafactor"})
    assert other["learning_rate"] is None and other["seed"] == 3
    assert with_overrides(recipe, {"optimizer": "adamw"})["learning_rate"] == 2e-3
    own = with_overrides(recipe, {"optimizer": "sgd", "learning_rate": 0.5})
    assert own["learning_rate"] == 0.5
