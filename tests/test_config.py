"""Of config.py, recipe.py and flags.py: pytest tests/test_config.py"""

import dataclasses
import os

import pytest

from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.config import EvaluateConfig
from gpt2ft.generation.config import GenerateConfig
from gpt2ft.run.recipe import (
    RECIPES,
    changed_settings,
    known_output_dirs,
    load_recipe,
    settings_of,
    to_yaml,
    with_overrides,
)


def valid(**settings):
    config = TrainConfig(**{"train_file": ["a.txt"], **settings})
    config.validate()
    return config


def test_the_missions_recipe():
    """DESIGN.md §3, value by value."""
    config = TrainConfig(**load_recipe("wikitext2"))
    config.validate()
    expected = {
        "model_name_or_path": "gpt2",
        "dataset_name": "Salesforce/wikitext",
        "dataset_config_name": "wikitext-2-raw-v1",
        "dataset_split": "train[:50%]",
        "packing": False,
        "block_size": 64,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1.0,
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "precision": "auto",
        "logging_steps": 100,
        "save_steps": 500,
        "output_dir": "./gpt2-finetuned-wikitext2",
    }
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    config = TrainConfig(**load_recipe(path.stem))
    config.validate()
    assert config.output_dir in known_output_dirs()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("learning_rate", -1.0, "learning_rate is -1.0, give a number >= 0"),
        ("learning_rate", float("nan"), "learning_rate is nan"),
        ("learning_rate", float("inf"), "learning_rate is inf"),
        ("per_device_train_batch_size", 0, "give a number >= 1"),
        ("gradient_accumulation_steps", 0, "give a number >= 1"),
        ("block_size", 1, "block_size is 1, give a number >= 2"),
        ("save_steps", 0, "give a number >= 1"),
        ("save_total_limit", 1, "give a number >= 2"),
        ("max_grad_norm", 0.0, "inf turns clipping off"),
        ("adam_beta1", 1.0, "give a number < 1"),
        ("adam_epsilon", 0.0, "give a number >= 1e-30"),
        ("weight_decay", -0.1, "give a number >= 0"),
        ("seed", -1, "give a number >= 0"),
        ("seed", 2**63, f"give a number < {2**63}"),
        ("validation_split_percentage", 100.0, "give a number < 100"),
        ("train_file", [], "no corpus"),
    ],
)
def test_what_training_refuses(setting, value, message):
    with pytest.raises(ValueError, match=message):
        valid(**{setting: value})


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("temperature", -0.1, "temperature is -0.1"),
        ("temperature", float("nan"), "temperature is nan"),
        ("temperature", float("inf"), "temperature is inf"),
        ("top_p", 0.0, "top_p is 0.0, give a number > 0"),
        ("top_p", 1.1, "give a number <= 1"),
        ("top_k", -1, "give a number >= 0"),
        ("max_new_tokens", 0, "give a number >= 1"),
        ("max_new_tokens", 10**30, "give a number <= 10000000"),
        ("repetition_penalty", 0.0, "give a number >= 0.001"),
        ("prompt", [], "nothing to continue"),
    ],
)
def test_what_generation_refuses(setting, value, message):
    with pytest.raises(ValueError, match=message):
        GenerateConfig(**{"prompt": ["a"], setting: value}).validate()


def test_max_grad_norm_may_be_infinite():
    assert valid(max_grad_norm=float("inf")).max_grad_norm == float("inf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sneed: 1", "sets sneed, which is no setting"),
        ("seed: one", "sets seed to 'one', give a whole number"),
        ("seed: true", "sets seed to True"),
        ("packing: 1", "sets packing to 1, give true or false"),
        ("precision: fp8", "sets precision to 'fp8', give auto, fp32, bf16 or fp16"),
        ("train_file: 7", "sets train_file to 7, give a list of texts"),
        ("learning_rate: fast", "sets learning_rate to 'fast', give a number"),
        ("output_dir: 7", "sets output_dir to 7, give a text"),
        ("- a", "is no recipe"),
        ("a: [", "is not YAML"),
        ("seed: null", "sets seed to None"),
        ("train_file: a\ndataset_name: b", "sets both dataset_name and train_file"),
    ],
)
def test_what_a_recipe_file_may_not_say(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(path))


def test_a_recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "learning_rate: 5e-5\nnum_train_epochs: 2\nmax_steps: null\ntrain_file: [a.txt]"
    )
    assert load_recipe(str(path)) == {
        "learning_rate": 5e-5,  # which YAML alone reads as a string
        "num_train_epochs": 2.0,
        "max_steps": None,
        "train_file": ["a.txt"],
    }
    with pytest.raises(FileNotFoundError, match="recipes are quickstart, wikitext2"):
        load_recipe("nonsense")


def test_a_flag_clears_the_recipes_alternative():
    recipe = load_recipe("wikitext2")
    own_text = with_overrides(recipe, {"train_file": ["a.txt"]})
    assert own_text["dataset_name"] is None and own_text["train_file"] == ["a.txt"]
    new = with_overrides(recipe, {"model_type": "gpt2"})
    assert new["model_name_or_path"] is None and new["model_type"] == "gpt2"
    with pytest.raises(ValueError, match="exclude each other"):
        with_overrides(recipe, {"train_file": ["a.txt"], "dataset_name": "b"})


def test_epochs_given_outweigh_the_steps_of_the_recipe():
    assert with_overrides({"max_steps": 6}, {"num_train_epochs": 30.0})["max_steps"] is None
    both = {"num_train_epochs": 30.0, "max_steps": 9}
    assert with_overrides({"max_steps": 6}, both)["max_steps"] == 9


def test_a_new_model_has_no_name_in_the_record(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(valid(model_type="gpt2")), encoding="utf-8")
    assert load_recipe(str(path))["model_name_or_path"] is None


def test_a_saved_configuration_is_read_back(tmp_path):
    """Paths absolute, and without what belongs to one command."""
    config = valid(learning_rate=3e-4, text_column="ünï", debug=True, overwrite_output_dir=True)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    expected = valid(learning_rate=3e-4, text_column="ünï", train_file=[os.path.abspath("a.txt")])
    assert TrainConfig(**load_recipe(str(path))) == expected
    assert "overwrite_output_dir" not in path.read_text(encoding="utf-8")


def test_what_may_change_when_resuming():
    saved = settings_of(valid())
    same = valid(logging_steps=7, save_steps=9, max_steps=99, output_dir="b", resume="auto")
    assert changed_settings(saved, settings_of(same)) == []
    changed = changed_settings(saved, settings_of(valid(seed=1, per_device_train_batch_size=4)))
    assert changed == ["per_device_train_batch_size: 8 then, 4 now", "seed: 42 then, 1 now"]
    del saved["learning_rate"]  # of a record cut off, nothing is taken for unchanged
    assert changed_settings(saved, settings_of(same)) == ["learning_rate: unknown then, None now"]


def test_one_file_may_be_written_without_brackets(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train_file: a.txt")
    assert load_recipe(str(path)) == {"train_file": ["a.txt"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name_or_path": None}, "no model"),
        ({"config_overrides": "n_layer=2"}, "is for a new model"),
        ({"resume": "auto", "overwrite_output_dir": True}, "exclude each other"),
    ],
)
def test_what_does_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        valid(**settings)


def test_where_runs_go_that_were_not_told():
    assert known_output_dirs() == [
        "./gpt2-finetuned-quickstart",
        "./gpt2-finetuned-wikitext2",
        "./gpt2-finetuned",
    ]


def test_every_field_has_help():
    from gpt2ft.cli.flags import field_docs

    for kind in (TrainConfig, GenerateConfig, EvaluateConfig):
        docs = field_docs(kind)
        assert set(docs) == {field.name for field in dataclasses.fields(kind)}
        assert all(len(doc) > 5 for doc in docs.values())
