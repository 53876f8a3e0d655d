"""What the page is told: pytest tests/playground/test_state.py"""

import dataclasses
import json

from gpt2ft.cli.flags import field_docs
from gpt2ft.generation.config import Sampling
from gpt2ft.playground.served_model import ServedModel
from gpt2ft.playground.state import SLIDERS, state
from gpt2ft.playground.text_request import TextRequest
from gpt2ft.settings import check_bounds
from tests.support.playground import served_model
from tests.support.tiny import tiny_gpt2

HELPS = field_docs(Sampling)


def found(tokenizer, sampling=None):
    models = [served_model(tiny_gpt2(), tokenizer, "one"), ServedModel("two", "", None)]
    told = state(models, sampling or Sampling(), seed=3, is_chat=False, helps=HELPS)
    return json.loads(json.dumps(told))


def test_models_are_named_and_only_the_first_is_loaded(tokenizer):
    told = found(tokenizer)
    assert [(m["number"], m["name"], m["window"]) for m in told["models"]] == [
        (0, "one", 64),
        (1, "two", None),
    ]
    assert told["seed"] == 3 and told["chat"] is False


def test_each_setting_is_there_with_its_help_and_the_value_of_the_start(tokenizer):
    settings = {s["name"]: s for s in found(tokenizer, Sampling(temperature=5.0))["settings"]}
    names = {field.name for field in dataclasses.fields(Sampling)}
    assert settings.keys() == names - {"max_verbatim"}  # there is no text not to copy
    assert settings["temperature"]["value"] == settings["temperature"]["greatest"] == 5.0
    assert all(setting["help"] == HELPS[name] for name, setting in settings.items())


def test_both_ends_of_each_slider_can_be_asked_for():
    for name, (least, greatest, _) in SLIDERS.items():
        for value in (least, greatest):
            kind = type(getattr(Sampling(), name))
            body = json.dumps({"settings": {name: kind(value)}}).encode()
            check_bounds(TextRequest.from_json(body, Sampling()).sampling)
