"""Attacks that would do harm, each on the way it would come: pytest tests/whole/test_security.py"""

import ast
import functools
import hashlib
import io
import json
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import unicodedata
import warnings
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

import gpt2ft
from gpt2ft.checkpoint import checkpoints
from gpt2ft.checkpoint.manifest import CheckpointError, read_json, verify_checkpoint, with_sha256
from gpt2ft.cli import main as cli
from gpt2ft.data.corpus import load_corpus
from gpt2ft.models import loading as modeling
from gpt2ft.models import untrusted
from gpt2ft.models.untrusted import never_ask
from gpt2ft.precision import Precision
from gpt2ft.run.recipe import load_recipe
from gpt2ft.system import durable
from gpt2ft.system.terminal import silence_libraries
from tests.support.tiny import byte_tokenizer, tiny_gpt2

ROOT = Path(__file__).parent.parent.parent
SAFE = "model.safetensors"
FP32 = Precision(torch.device("cpu"), None)
# To the clipboard (OSC 52), bold, colour by C1, right to left, isolate, back to the line's start.
HOSTILE = "\x1b]52;c;aGk=\x07\x1b[1m\x9b31m\u202e\u2066\r\x7f"
ESCAPED = "\\x1b]52;c;aGk=\\x07\\x1b[1m\\x9b31m\\u202e\\u2066"


@pytest.fixture
def marker(tmp_path):
    """A folder that an attack makes when it succeeds."""
    path = tmp_path / "attacked"
    yield path
    assert not path.exists(), "foreign code was run"


@pytest.fixture(autouse=True)
def no_wait_and_no_answer(monkeypatch):
    """A test that waits for ever fails; who asks a question gets a yes."""

    def waited(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(15)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Bomb:
    """Makes the folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def add_code(folder, marker):
    """Python files as a model brings them; importing one makes the folder."""
    code = f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n" + (
        "from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast\n"
        "class C(GPT2Config): model_type = 'foreign'\n"
        "class M(GPT2LMHeadModel): config_class = C\n"
        "class T(PreTrainedTokenizerFast): pass\n"
        "def generate(model, **settings): pass\n"
    )
    (folder / "custom_generate").mkdir(exist_ok=True)
    for name in ("configuration_x", "modeling_x", "tokenization_x", "custom_generate/generate"):
        (folder / f"{name}.py").write_text(code)


def edit(path, **values):
    """Change settings in a JSON file; None removes one."""
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings = {name: v for name, v in {**settings, **values}.items() if v is not None}
    path.write_text(json.dumps(settings))


def pickled(folder, marker):
    """Weights as a pickle that does harm."""
    tensors = load_file(folder / "model.safetensors")
    torch.save({**tensors, "harm": Bomb(marker)}, folder / "harm.bin")
    return tensors


AUTO_MAP = {
    **{"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.M"},
    **{"AutoModel": "modeling_x.M", "AutoTokenizer": ["tokenization_x.T", None]},
}

# The same, from a repository of another name.
ELSEWHERE = json.loads(re.sub(r'"(?=\w+_x\.)', '"foreign/code--', json.dumps(AUTO_MAP)))


def put_on_hub(name, folder, commit):
    """A repository as the hub's cache holds it, its branch main at that commit."""
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)


def index(folder, file):
    """Only weights that an index says are in that file."""
    names = load_file(folder / "model.safetensors").keys()
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    edit(
        folder / "model.safetensors.index.json",
        metadata={},
        weight_map=dict.fromkeys(names, file),
    )


# What is done to a folder in which everything else is in order, and what is said of it.
MODEL_ATTACKS = {
    "weights only as a pickle": (
        lambda f: ((f / "harm.bin").rename(f / "pytorch_model.bin"), (f / SAFE).unlink()),
        "no file named model.safetensors",
    ),
    "an index that names a pickle": (
        lambda f: index(f, "harm.bin"),
        "its weights are in harm.bin, only .safetensors beside it are read",
    ),
    "an index that names a file elsewhere": (
        lambda f: (shutil.copy(f / SAFE, f.parent), index(f, "../model.safetensors")),
        r"its weights are in \.\./model\.safetensors",
    ),
    "settings that name a pickle": (
        lambda f: (
            (f / "harm.bin").rename(f / "adapter_model.bin"),
            edit(f / "config.json", transformers_weights="adapter_model.bin"),
        ),
        r"its weights are in adapter_model\.bin",
    ),
    "shards, which are read instead": (
        lambda f: (f / SAFE).rename(f / "shard-00001-model-00001-of-00001.safetensors"),
        "shard-",
    ),
    "code for a type that is not known": (
        lambda f: edit(f / "config.json", model_type="foreign", auto_map=AUTO_MAP),
        r"run code of its own \(auto_map\), which is refused",
    ),
    "code of another repository": (
        lambda f: edit(f / "config.json", model_type="foreign", auto_map=ELSEWHERE),
        r"run code of its own \(auto_map\), which is refused",
    ),
    "attention of the makers of kernels": (
        lambda f: edit(f / "config.json", attn_implementation="kernels-community/flash-attn"),
        "code from kernels-community/flash-attn, which is refused",
    ),
    "attention of anybody": (
        lambda f: edit(f / "config.json", _attn_implementation={"": "paged|foreign/code"}),
        "code from .*foreign/code, which is refused",
    ),
    "an adapter": (
        lambda f: edit(f / "adapter_config.json", base_model_name_or_path="foreign/model"),
        "it is an adapter",
    ),
    "too much JSON": (
        lambda f: os.truncate(f / "config.json", (64 << 20) + 1),
        "config.json has 67108865 bytes",
    ),
    "JSON nested too deeply": (
        lambda f: (f / "generation_config.json").write_text("[" * 100_000),
        "recursion",
    ),
    "JSON that is no object": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json is not an object",
    ),
    "a pipe for weights": (
        lambda f: ((f / SAFE).unlink(), os.mkfifo(f / SAFE)),
        "no file named model.safetensors",
    ),
    "a pipe for settings": (
        lambda f: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")),
        "config.json",
    ),
}


@pytest.fixture
def kernels(monkeypatch, marker):
    """As if the package `kernels` were there: it fetches code and runs it."""

    def fetch(*_, **__):
        marker.mkdir()

    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda: True)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch)


@pytest.mark.parametrize("attack", MODEL_ATTACKS)
def test_a_model_that_would_do_harm_is_refused(attack, model_folder, marker, kernels):
    add_code(model_folder, marker)
    pickled(model_folder, marker)
    act, message = MODEL_ATTACKS[attack]
    act(model_folder)
    with pytest.raises(ValueError, match=f"^model {model_folder} cannot be loaded, .*{message}"):
        gpt2ft.load_model(str(model_folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": AUTO_MAP},
        {"auto_map": ELSEWHERE},
        {"_attn_implementation_internal": "foreign/code"},
        {"attn_implementation": "flash_attention_2"},  # which kernels would fetch
        {"experts_implementation": "foreign/code"},
    ],
)
def test_a_known_type_is_loaded_without_the_code_it_names(
    settings, model_folder, marker, kernels, tmp_path
):
    """Many on the hub name some for older versions; and nothing of it is handed on."""
    add_code(model_folder, marker)
    edit(model_folder / "config.json", **settings)
    edit(model_folder / "tokenizer_config.json", auto_map=AUTO_MAP)
    edit(model_folder / "generation_config.json", custom_generate="foreign/code")
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler.pt"):
        (model_folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    model = gpt2ft.load_model(str(model_folder))
    tokenizer = gpt2ft.load_tokenizer(str(model_folder))
    assert type(model) is transformers.GPT2LMHeadModel and len(tokenizer) == 257
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = "".join(path.read_text() for path in (tmp_path / "saved").glob("*.json"))
    assert "auto_map" not in saved and "foreign" not in saved


def test_the_parts_of_a_model_are_looked_at_too():
    """Each is loaded by a call of its own, which is not told whether to trust."""
    config = transformers.LlavaConfig(text_config={"model_type": "gpt2", "auto_map": AUTO_MAP})
    assert config.text_config.auto_map
    untrusted.drop_code(config)
    assert not hasattr(config.text_config, "auto_map")
    config.text_config._attn_implementation = "foreign/code"
    with pytest.raises(ValueError, match="code from foreign/code, which is refused"):
        untrusted.drop_code(config)


TOKENIZER_ATTACKS = {
    "code for a class that is not known": (
        {"tokenizer_class": "Foreign", "auto_map": AUTO_MAP},
        r"run code of its own \(auto_map\), which is refused",
    ),
    "code of another repository": (
        {"tokenizer_class": "Foreign", "auto_map": ELSEWHERE},
        r"run code of its own \(auto_map\), which is refused",
    ),
    "what asks whether to run code": (
        {"tokenizer_class": "AutoConfig"},
        "names the class AutoConfig, no tokenizer",
    ),
    "the same by another name": (
        {"tokenizer_class": "AutoProcessorFast"},
        "names the class AutoProcessorFast, no tokenizer",
    ),
    "a model, which reads pickles": (
        {"tokenizer_class": "GPT2LMHeadModel"},
        "names the class GPT2LMHeadModel, no tokenizer",
    ),
    "itself": ({"tokenizer_class": "AutoTokenizer"}, "no tokenizer"),
    "what is no class": ({"tokenizer_class": "pipeline"}, "no tokenizer"),
    "too much JSON": ({"x": "x" * (64 << 20)}, "tokenizer_config.json has 671"),
}


@pytest.mark.parametrize("attack", TOKENIZER_ATTACKS)
def test_a_tokenizer_that_would_do_harm_is_refused(attack, model_folder, marker):
    add_code(model_folder, marker)
    pickled(model_folder, marker)
    (model_folder / "harm.bin").rename(model_folder / "pytorch_model.bin")
    (model_folder / SAFE).unlink()
    settings, message = TOKENIZER_ATTACKS[attack]
    edit(model_folder / "config.json", model_type="foreign", auto_map=AUTO_MAP)
    (model_folder / "processor_config.json").write_text(json.dumps({"auto_map": AUTO_MAP}))
    edit(model_folder / "tokenizer_config.json", **settings)
    if settings.get("auto_map"):
        (model_folder / "config.json").unlink()
    elif "tokenizer_class" in settings:  # or there
        with pytest.raises(ValueError, match=f"^tokenizer .* cannot be loaded, .*{message}"):
            gpt2ft.load_tokenizer(str(model_folder))
        edit(model_folder / "config.json", **settings)
        edit(model_folder / "tokenizer_config.json", tokenizer_class=None)
    with pytest.raises(ValueError, match=f"^tokenizer .* cannot be loaded, .*{message}"):
        gpt2ft.load_tokenizer(str(model_folder))


def test_a_way_that_nobody_thought_of_is_not_asked_about(model_folder, marker, monkeypatch):
    """Where transformers is not told whether to trust, it would ask, and here be told: yes.

    The commands have it refuse everywhere; see `never_ask`.
    """
    seconds = transformers.dynamic_module_utils.TIME_OUT_REMOTE_CODE
    monkeypatch.setattr(transformers.dynamic_module_utils, "TIME_OUT_REMOTE_CODE", seconds)
    never_ask()
    add_code(model_folder, marker)
    edit(model_folder / "config.json", model_type="foreign", auto_map=AUTO_MAP)
    edit(model_folder / "tokenizer_config.json", tokenizer_class="AutoConfig")
    monkeypatch.setattr(modeling, "check_tokenizer", lambda *_: None)
    with pytest.raises(ValueError, match="custom code"):
        gpt2ft.load_tokenizer(str(model_folder))


def test_these_attacks_are_real(model_folder, marker, monkeypatch):
    """With the calls that a program usually makes, each of them makes the folder."""
    # As it is where none of our commands has run: they set it to 0, and so do the tests of them.
    monkeypatch.setattr(transformers.dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 15)

    def harmed():
        done = marker.exists()
        if done:
            marker.rmdir()
        return done

    add_code(model_folder, marker)
    pickled(model_folder, marker)
    torch.load(model_folder / "harm.bin", weights_only=False)
    assert harmed()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert harmed()
    edit(model_folder / "config.json", model_type="foreign", auto_map=AUTO_MAP)
    transformers.AutoModelForCausalLM.from_pretrained(model_folder)  # the answer is yes
    assert harmed()
    with open(model_folder / "configuration_x.py", "a") as file:
        file.write("# which is not the file that was run before\n")
    edit(model_folder / "tokenizer_config.json", tokenizer_class="AutoConfig")
    transformers.AutoTokenizer.from_pretrained(model_folder, trust_remote_code=False)
    assert harmed()


@pytest.fixture
def on_hub(model_folder, request):
    """The name of a repository with two commits, the weights of the first one more."""
    name = f"somebody/{hashlib.sha256(request.node.name.encode()).hexdigest()[:9]}"
    tensors = load_file(model_folder / SAFE)
    more = {name: tensor + 1 for name, tensor in tensors.items()}
    for commit, weights in (("a" * 40, more), ("b" * 40, tensors)):
        save_file(weights, model_folder / SAFE, metadata={"format": "pt"})
        put_on_hub(name, model_folder, commit)
    return name


def test_a_revision_can_be_pinned(on_hub):
    """And all of a model is of that commit."""
    newest, pinned = (
        gpt2ft.load_model(on_hub, revision=revision).transformer.wpe.weight
        for revision in ("main", "a" * 40)
    )
    assert torch.equal(newest + 1, pinned)
    assert gpt2ft.load_tokenizer(on_hub, revision="a" * 40)


def test_an_adapter_on_the_hub_finds_its_model_there(on_hub, tmp_path):
    """Its settings name the commit of the model."""
    layer = "base_model.model.transformer.h.0.attn.c_attn"
    matrices = {"A": torch.ones(2, 32), "B": torch.ones(96, 2)}
    save_file(
        {f"{layer}.lora_{side}.weight": t for side, t in matrices.items()},
        tmp_path / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "fan_in_fan_out": True}
    edit(
        tmp_path / "adapter_config.json",
        **settings,
        base_model_name_or_path=on_hub,
        revision="a" * 40,
    )
    put_on_hub("foreign/adapter", tmp_path, "d" * 40)
    base = gpt2ft.load_model(on_hub, revision="a" * 40).state_dict()
    found = gpt2ft.load_model("foreign/adapter").state_dict()
    name = "transformer.h.0.attn.c_attn.weight"
    torch.testing.assert_close(found.pop(name), base.pop(name) + 4)  # 4 / 2 times two ones
    assert all(torch.equal(tensor, base[name]) for name, tensor in found.items())
    assert gpt2ft.load_tokenizer("foreign/adapter")("a")["input_ids"]


def test_on_the_hub_the_same_is_refused(on_hub, model_folder, marker, monkeypatch):
    add_code(model_folder, marker)
    pickled(model_folder, marker)
    for number, attack in enumerate(("an index that names a pickle", "code of another repository")):
        folder = shutil.copytree(model_folder, model_folder.parent / str(number))
        act, message = MODEL_ATTACKS[attack]
        act(folder)
        commit = f"{number}" * 40
        put_on_hub(on_hub, folder, commit)
        put_on_hub("foreign/code", folder, commit)
        with pytest.raises(ValueError, match=f"^model {on_hub} cannot be loaded, .*{message}"):
            gpt2ft.load_model(on_hub, revision=commit)


def test_weights_of_a_pull_request_are_not_taken(on_hub, model_folder, marker, monkeypatch):
    """Where a repository has pickles alone, transformers has them converted, by whoever it is."""
    (model_folder / SAFE).unlink()
    put_on_hub(on_hub, model_folder, "c" * 40)

    def convert(*_, **__):
        marker.mkdir()

    monkeypatch.setattr("transformers.modeling_utils.auto_conversion", convert)
    monkeypatch.setattr("transformers.modeling_utils.is_offline_mode", lambda: False)
    with pytest.raises((FileNotFoundError, ConnectionError)):
        gpt2ft.load_model(on_hub)


# Checkpoints


class Samples:
    """Eight samples."""

    def __len__(self):
        return 8

    def __getitem__(self, number):
        return {"input_ids": [(number * 31 + i * 7) % 256 + 1 for i in range(6)]}


def new_state(seed=0):
    model = tiny_gpt2(seed=seed)
    optimizer = gpt2ft.build_optimizer(model, learning_rate=1e-2)
    return gpt2ft.TrainState.create(model, optimizer, precision=FP32)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder, state = tmp_path_factory.mktemp("run"), new_state()
    data = gpt2ft.Batches(Samples(), gpt2ft.CausalLMCollator(0), batch_size=4, seed=1)
    for _ in gpt2ft.train(state, data, max_steps=2, learning_rate=lambda step: 1e-2):
        gpt2ft.save_checkpoint(folder, state, tokenizer=byte_tokenizer())
    return folder


@pytest.fixture
def saved(two_checkpoints, tmp_path):
    """A folder of two checkpoints, to be attacked."""
    return shutil.copytree(two_checkpoints, tmp_path / "run")


def in_manifest(checkpoint, name, **entry):
    """Have the manifest list a file: as it is now, or with that entry."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    if not entry:
        data = (checkpoint / name).read_bytes()
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][name] = entry
    path.write_text(json.dumps(with_sha256(manifest)))


def resumed(folder):
    """The step of the newest valid checkpoint, loaded."""
    path, reasons = gpt2ft.find_checkpoint(folder)
    state = new_state(seed=3)
    gpt2ft.load_checkpoint(path, state)
    return state.step, reasons


LISTED = [
    *("../checkpoint-1/state.json", "/etc/passwd", "..", ".", "", "folder", "link", "pipe"),
    *("a/../state.json", "x\0y", "x" * 5000, HOSTILE),
]


@pytest.mark.parametrize("name", LISTED)
def test_a_manifest_lists_only_files_beside_it(name, saved):
    newest = saved / "checkpoint-2"
    (newest / "folder").mkdir()
    (newest / "link").symlink_to("state.json")
    os.mkfifo(newest / "pipe")
    in_manifest(newest, name, size=1, sha256="")
    step, (reason,) = resumed(saved)
    assert step == 1 and "lacks" in reason


@pytest.mark.parametrize("name", ["manifest.json", "state.json", SAFE, "config.json"])
@pytest.mark.parametrize("how", ["link", "pipe", "folder"])
def test_a_checkpoint_is_made_of_regular_files(name, how, saved):
    path = saved / "checkpoint-2" / name
    path.rename(saved / name)
    if how == "link":
        path.symlink_to(saved / name)
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    step, (reason,) = resumed(saved)
    assert step == 1 and name in reason


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_in_a_checkpoint_is_not_touched(name, saved, marker):
    (saved / "checkpoint-2" / name).write_bytes(pickle.dumps(Bomb(marker)))
    assert resumed(saved) == (2, [])


@pytest.mark.parametrize("name", [SAFE, "optimizer.safetensors", "state.json"])
def test_a_pickle_in_the_place_of_a_checkpoints_file(name, saved, marker):
    """With a manifest to match: the hashes detect damage, not an attacker."""
    torch.save({"harm": Bomb(marker)}, saved / "checkpoint-2" / name)
    in_manifest(saved / "checkpoint-2", name)
    with pytest.raises(CheckpointError, match="checkpoint-2 does not fit this run"):
        resumed(saved)


def test_settings_of_a_checkpoint_name_no_other_weights(saved, marker):
    newest = saved / "checkpoint-2"
    tensors = load_file(newest / SAFE)
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, newest / "adapter_model.bin")
    edit(newest / "config.json", transformers_weights="adapter_model.bin")
    in_manifest(newest, "config.json")
    state = new_state(seed=3)
    gpt2ft.load_checkpoint(newest, state)
    weights = state.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())


def test_shards_beside_a_checkpoints_weights_are_not_read(saved):
    """The manifest lists model.safetensors: nothing has verified another."""
    other = "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(saved / "checkpoint-1" / SAFE, saved / "checkpoint-2" / other)
    assert resumed(saved) == (2, [])


def test_a_link_is_no_checkpoint_even_if_it_is_named(saved):
    (saved / "checkpoint-9").symlink_to(saved / "checkpoint-1")
    step, (reason,) = resumed(saved)
    assert step == 2 and "checkpoint-9 is a symbolic link" in reason
    with pytest.raises(CheckpointError, match="checkpoint-9 is a symbolic link"):
        verify_checkpoint(saved / "checkpoint-9")


def test_a_link_in_the_place_of_the_next_checkpoint_is_replaced(saved, tmp_path):
    state = new_state()
    for step, target in enumerate(("nothing", "checkpoint-1"), 3):
        (saved / f"checkpoint-{step}").symlink_to(target)
        state.step = step
        path = gpt2ft.save_checkpoint(saved, state, keep=9)
        assert not path.is_symlink() and verify_checkpoint(path)["step"] == step
    assert verify_checkpoint(saved / "checkpoint-1")["step"] == 1


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a": "' + b"x" * (64 << 20) + b'"}'])
def test_json_that_would_use_up_the_memory(name, data, saved):
    path = saved / "checkpoint-2" / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_json(path)
    assert resumed(saved)[0] == 1


@pytest.mark.parametrize("name", ["..", "../precious", "", ".", "folder", "\0", "link/precious"])
def test_clearing_a_folder_deletes_nothing_else(name, saved, tmp_path):
    """`--overwrite_output_dir` on a folder with a manifest of somebody's."""
    (tmp_path / "precious").touch()
    (saved / "folder").mkdir()
    (saved / "folder" / "precious").touch()
    (saved / "link").symlink_to(tmp_path)
    (saved / ".saving-link").symlink_to(tmp_path)
    (saved / "manifest.json").write_text(json.dumps({"files": {name: {}}}))
    checkpoints.clear(saved)
    assert (tmp_path / "precious").exists() and (saved / "folder" / "precious").exists()
    assert sorted(path.name for path in saved.iterdir()) == ["folder", "link"]


@pytest.mark.parametrize("there", [True, False])
def test_records_are_not_written_through_a_link(there, tmp_path):
    """A text of the model's, say, into a file that a shell reads when it starts."""
    victim, link = tmp_path / "victim", tmp_path / "metrics.jsonl"
    link.symlink_to(victim)
    if there:
        victim.touch()
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        durable.append(link, b"harm")
    assert victim.exists() == there and (not there or victim.read_bytes() == b"")


# Recipes and data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: !!python/object/apply:os.mkdir [MARKER]", "is not YAML"),
        ("seed: !!python/name:os.system", "is not YAML"),
        ("seed: " + "[" * 5000, "is not YAML"),
        ("# " + "x" * (4 << 20), "no recipe is that large"),
        ('"\\e]52": 1', "sets .*, which is no setting"),
    ],
)
def test_a_recipe_that_would_do_harm(text, message, tmp_path, marker):
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("MARKER", f'"{marker}"'))
    with pytest.raises(ValueError, match=f"recipe.yaml.* {message}"):
        load_recipe(str(path))


def test_a_few_lines_of_yaml_that_say_a_billion_words(tmp_path):
    lines = ["  - &0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"  - &{n} [{','.join([f'*{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "recipe.yaml").write_text("train_file:\n" + "\n".join(lines))
    with pytest.raises(ValueError, match="sets train_file to") as error:
        load_recipe(str(tmp_path / "recipe.yaml"))
    assert len(str(error.value)) < 1000


@pytest.fixture
def data_set(tmp_path):
    folder = tmp_path / "data-set"
    folder.mkdir()
    (folder / "train.txt").write_text("a line\n" * 60)
    return folder


@pytest.mark.parametrize("path", ["../secret.txt", "file://{}/secret.txt", "{}/secret.txt"])
def test_a_data_set_is_only_what_is_in_its_folder(path, data_set, tmp_path):
    """What is trained on can be asked for later."""
    (tmp_path / "secret.txt").write_text("secret\n" * 60)
    settings = {"configs": [{"config_name": "default", "data_files": path.format(tmp_path)}]}
    (data_set / "README.md").write_text(f"---\n{yaml.safe_dump(settings)}---\n")
    with pytest.raises(ValueError, match=r"secret\.txt is no part of it"):
        load_corpus(dataset_name=str(data_set))


def test_the_code_of_a_data_set_is_not_run(data_set, marker):
    (data_set / "data-set.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    with pytest.raises(ValueError, match="scripts are no longer supported"):
        load_corpus(dataset_name=str(data_set))


@pytest.mark.parametrize("kind", ["pth", "npy", "pyd", "pickle"])
def test_objects_in_a_data_set_are_not_made(kind, data_set, marker):
    saving = {
        "pth": lambda file: torch.save(Bomb(marker), file),
        "npy": lambda file: np.save(file, np.array([Bomb(marker)]), allow_pickle=True),
    }.get(kind, lambda file: pickle.dump(Bomb(marker), file))
    (data_set / "train.txt").unlink()
    with tarfile.open(data_set / "train.tar", "w") as archive:
        for number in range(9):
            file = io.BytesIO()
            saving(file)
            entry = tarfile.TarInfo(f"{number}.{kind}")
            entry.size = file.tell()
            file.seek(0)
            archive.addfile(entry, file)
    with pytest.raises(ValueError):
        load_corpus(dataset_name=str(data_set))


# Terminals


class Screen(io.TextIOWrapper):
    """A stream that says it is a terminal, and keeps what it is told."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self):
        return True

    @property
    def shown(self):
        return self.buffer.getvalue().decode()


@pytest.fixture
def screens(monkeypatch):
    """Makes standard output and standard error terminals, and returns them."""

    def show():  # by the test itself: pytest has put its own in their place since this was set up
        monkeypatch.setattr(sys, "stdout", Screen())
        monkeypatch.setattr(sys, "stderr", Screen())
        return sys.stdout, sys.stderr

    return show


BAR = re.compile(r"\r|\x1b\[A")  # what moves a progress bar
DIRECTED = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def obeyed(text):
    """What a terminal would obey in it, or show in another order."""
    return {
        character
        for character in text
        if (unicodedata.category(character) == "Cc" and character not in "\n\t")
        or unicodedata.bidirectional(character) in DIRECTED
    }


def test_the_text_is_hostile():
    assert obeyed(HOSTILE) == set("\x1b\x07\x9b\u202e\u2066\r\x7f") and obeyed(ESCAPED) == set()


@pytest.fixture
def speaker(tmp_path):
    """A model that says what it is told: weights of 0, but for which token each position gives."""

    def make(ids):
        sizes = {"n_layer": 1, "n_head": 1, "n_embd": 64, "n_positions": 64, "vocab_size": 257}
        config = transformers.GPT2Config(**sizes, tie_word_embeddings=False, eos_token_id=0)
        model = transformers.GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.transformer.ln_f.weight.fill_(1.0)
            model.transformer.wpe.weight.copy_(torch.eye(64))
            for position, token in enumerate([*ids, 0]):
                model.lm_head.weight[token, position] = 1.0
        folder = tmp_path / "speaker"
        model.save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return str(folder)

    return make


def test_what_a_model_says_is_escaped_however_it_is_split(speaker, screens):
    """A token is a byte: 0x9b is the second of two, the first of which is held back."""
    ids = byte_tokenizer()(HOSTILE)["input_ids"]
    assert len(ids) > len(HOSTILE)
    out, _ = screens()
    lone = byte_tokenizer()("\x9b")["input_ids"][1:]
    flags = ["--model_name_or_path", speaker([*ids, *lone]), "--greedy", "-p", "x"]
    assert cli.main(["generate", *flags]) == 0
    assert out.shown == f"x{ESCAPED}\\r\\x7f\ufffd\n"
    assert cli.main(["generate", *flags, "--raw"]) == 0
    assert HOSTILE in out.shown  # else the model would have said nothing


def test_what_is_typed_is_escaped(speaker, screens, monkeypatch, tmp_path):
    """A prompt that was pasted, on a line and as an argument, and one from a file."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    typed = iter([HOSTILE])

    def line(*_):
        for text in typed:
            return text
        raise EOFError

    monkeypatch.setattr("builtins.input", line)
    (tmp_path / "prompts.txt").write_text(HOSTILE + "\n", encoding="utf-8", newline="")
    flags = ["--prompt_file", str(tmp_path / "prompts.txt"), "--max_new_tokens", "1", "-i"]
    flags += ["--model_name_or_path", speaker([1]), "-p", HOSTILE]
    out, _ = screens()
    assert cli.main(["generate", *flags]) == 0
    assert out.shown.count(ESCAPED) == 3 and obeyed(out.shown) == set()


def test_a_pipe_gets_what_the_model_says(speaker, capsysbinary):
    ids = byte_tokenizer()(HOSTILE)["input_ids"]
    cli.main(["generate", "--model_name_or_path", speaker(ids), "--greedy", "-p", "x"])
    assert capsysbinary.readouterr().out == f"x{HOSTILE}\n".encode()


SECRETS = {"HF_TOKEN": "hf_QZJwVfYk", "AWS_SECRET_ACCESS_KEY": "QZJaws", "WANDB_API_KEY": "QZJwnb"}


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """A run of which every name and text is hostile, in an environment that holds secrets."""
    folder = tmp_path_factory.mktemp("runs") / HOSTILE
    folder.mkdir()
    tiny_gpt2().save_pretrained(folder / "model")
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = HOSTILE
    tokenizer.save_pretrained(folder / "model")
    edit(folder / "model" / "config.json", vocab_size=258, pad_token_id=257)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config.from_pretrained(folder / "model"))
    model.save_pretrained(folder / "model")
    (folder / "own.txt").write_text(f"{HOSTILE} says\n" * 99, encoding="utf-8", newline="")
    flags = ["--train_file", folder / "own.txt", "--model_name_or_path", folder / "model"]
    flags += ["--output_dir", folder / "out", "--block_size", "48", "--max_steps", "2"]
    flags += ["--save_steps", "1", "--logging_steps", "1", "--eval_steps", "1"]

    def no_connection(*_):
        raise AssertionError("something is sent")

    before = os.umask(0o027)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setattr(socket.socket, "connect", no_connection)
        patch.setattr(sys, "stdout", Screen())
        patch.setattr(sys, "stderr", Screen())
        status = cli.main(["train", *map(str, flags)])
        screens = (sys.stdout.shown, sys.stderr.shown)
    os.umask(before)
    assert status == 0, screens
    return folder / "out", *screens


def test_nothing_a_run_shows_is_obeyed(hostile_run):
    """Paths, pad token, and the card, whose text goes on from a held-out one."""
    _, out, bars = hostile_run
    assert obeyed(out) == set()
    for line in ("model  ", "data   ", "saved ", "generate: "):
        assert re.search(f"(?m)^{line}.*{re.escape(ESCAPED)}", out), line
    assert out.split("it wrote before ---")[1].count(ESCAPED) >= 2
    assert "training" in bars and obeyed(BAR.sub("", bars)) == set()


def test_no_secret_is_written_and_nothing_sent(hostile_run):
    folder, *screens = hostile_run
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    for text in (*screens, *(path.read_bytes().decode("latin-1") for path in files)):
        assert "QZJ" not in text
    whole = folder.parent.parent
    assert {path.name for path in whole.iterdir()} == {HOSTILE}


def test_files_have_the_mode_that_the_umask_leaves(hostile_run):
    folder, *_ = hostile_run
    modes = {
        (path.is_dir(), oct(path.stat().st_mode & 0o777)) for path in (folder, *folder.rglob("*"))
    }
    assert modes == {(True, "0o750"), (False, "0o640")}


def test_the_revision_is_recorded(on_hub, tmp_path):
    (tmp_path / "own.txt").write_text("a line of text\n" * 99)
    flags = ["--train_file", tmp_path / "own.txt", "--model_name_or_path", on_hub]
    flags += ["--model_revision", "a" * 40, "--output_dir", tmp_path / "out", "--max_steps", "1"]
    assert cli.main(["train", *map(str, flags)]) == 0
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["model_revision"] == "a" * 40
    manifest = json.loads((tmp_path / "out/checkpoint-1/manifest.json").read_text())
    assert manifest["run"]["config"]["model_revision"] == "a" * 40


@pytest.fixture
def hostile_file(tmp_path):
    """A file of that ending and content; its path is hostile too."""

    def make(suffix, text):
        path = tmp_path / f"{HOSTILE}{suffix}"
        path.write_text(text, encoding="utf-8", newline="")
        return str(path)

    return make


JSON_HOSTILE = json.dumps(HOSTILE)
MESSAGES = {
    "a flag": lambda make: ["--sneed" + HOSTILE],
    "a choice": lambda make: ["--precision", HOSTILE],
    "a number": lambda make: ["--seed", HOSTILE],
    "no file": lambda make: ["--train_file", HOSTILE],
    "no recipe": lambda make: ["--config", HOSTILE],
    "a recipe": lambda make: ["--config", make(".yaml", f"{JSON_HOSTILE}: 1\n")],
    "a setting": lambda make: ["--config", make(".yaml", f"seed: {JSON_HOSTILE}\n")],
    "no model": lambda make: ["--train_file", make("", "a\n"), "--model_name_or_path", HOSTILE],
    "a column": lambda make: ["--train_file", make(".jsonl", f"{{{JSON_HOSTILE}: 1}}\n" * 9)],
    "a CSV": lambda make: ["--train_file", make(".csv", f'"{HOSTILE[:9]}",b\n1,2\n')],
    "no folder": lambda make: ["--resume", HOSTILE + "/checkpoint-1"],
    "no output": lambda make: ["--train_file", make("", "a\n"), "--output_dir", make(".x", "")],
}


def command(flags):
    """The exit status of a command."""
    try:
        return cli.main(["train", *flags])
    except SystemExit as exit:
        return exit.code


@pytest.mark.parametrize("what", MESSAGES)
def test_what_an_error_quotes_is_escaped(what, hostile_file, screens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = screens()
    assert command(MESSAGES[what](hostile_file)) in (1, 2)
    assert re.fullmatch(r"gpt2ft: error: .*\\x1b\]52;c;a.*\n", err.shown)
    assert obeyed(err.shown + out.shown) == set()


def test_the_sample_an_error_quotes_is_escaped(hostile_file, model_folder, screens, monkeypatch):
    def not_finite(model, batch):
        return gpt2ft.causal_lm_loss(model, batch) * float("nan")

    train = functools.partial(gpt2ft.train, loss_fn=not_finite)
    monkeypatch.setattr("gpt2ft.run.finetune.train", train)
    flags = ["--train_file", hostile_file("", f"{HOSTILE} says\n" * 40), "--block_size", "48"]
    flags += ["--model_name_or_path", str(model_folder), "--validation_split_percentage", "0"]
    _, err = screens()
    assert command([*flags, "--output_dir", str(model_folder.parent / "out")]) == 1
    message = BAR.split(err.shown)[-1]
    assert re.fullmatch(r"gpt2ft: error: not finite .* begins '.*\\[xu].*\n", message)
    assert obeyed(message) == set()


def test_a_traceback_is_escaped(screens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, err = screens()
    assert command(["--train_file", HOSTILE, "--debug"]) == 1
    assert "Traceback" in err.shown and ESCAPED in err.shown
    assert obeyed(err.shown) == set()


def test_a_name_that_is_no_text_is_shown(screens, tmp_path, monkeypatch):
    """A file may be named by any bytes; 0x9b alone is a control on some terminals."""
    monkeypatch.chdir(tmp_path)
    _, err = screens()
    assert command(["--train_file", os.fsdecode(b"\x9b31m.txt")]) == 1
    assert command(["--seed", os.fsdecode(b"\x9b31m")]) == 2
    assert err.shown.count("31m") == 2 and obeyed(err.shown) == set()


def test_what_the_libraries_say_is_escaped(screens, model_folder, monkeypatch):
    """transformers logs a setting that it cannot set, as an error."""
    silence_libraries()
    edit(model_folder / "config.json", use_return_dict=HOSTILE)
    _, err = screens()
    monkeypatch.setattr(logging.getLogger("transformers").handlers[0], "stream", err)
    with pytest.raises(ValueError):
        gpt2ft.load_model(str(model_folder))
    assert ESCAPED in err.shown and obeyed(err.shown) == set()
    assert ESCAPED in warnings.formatwarning(HOSTILE, UserWarning, "file", 1)


# The code itself

BANNED_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "ctypes"}
BANNED_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"),
    *("torch.hub.load", "np.load", "numpy.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load"),
    *("tempfile.mktemp", "pd.read_pickle", "transformers.pipeline", "AutoModel.from_pretrained"),
}


def objections(source):
    """What a file of ours must not do: a phrase each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            dotted = {f"{module}.{name}" for module in modules for name in names}
            yield from BANNED_MODULES & {module.split(".")[0] for module in modules}
            yield from BANNED_CALLS & dotted
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            settings = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield from BANNED_CALLS & {called}
            if settings.get("shell", "False") != "False":
                yield "a shell"
            untold = called.startswith("Auto") and called.endswith("from_pretrained")
            if settings.get("trust_remote_code", "None" if untold else "False") != "False":
                yield "trust"
            if called == "AutoModelForCausalLM.from_pretrained":
                yield from ["pickled weights"] * (settings.get("use_safetensors") != "True")


OURS = sorted([*(ROOT / "gpt2ft").rglob("*.py"), ROOT / "train.py", ROOT / "generate.py"])


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_code_runs_no_foreign_code(path):
    # For one call, of the C library's own mallopt.
    expected = ["ctypes"] if path.name == "accelerate.py" else []
    assert list(objections(path.read_text(encoding="utf-8"))) == expected


BAD_CODE = """\
import pickle
from marshal import loads
from torch import load
torch.load(path, weights_only=True)
np.load(path, allow_pickle=True)
yaml.load(text, Loader=yaml.Loader)
eval(text)
exec(text)
os.system(text)
subprocess.run(text, shell=True)
function(text, shell=True)
"""


def test_every_line_of_bad_code_is_objected_to():
    for line in BAD_CODE.splitlines():
        assert list(objections(line)), line
    for call in ("AutoConfig.from_pretrained(a)", "f(trust_remote_code=True)"):
        assert list(objections(call)) == ["trust"]
    safe = "trust_remote_code=False"
    assert list(objections(f"AutoConfig.from_pretrained(a, {safe})")) == []
    assert list(objections(f"AutoModelForCausalLM.from_pretrained(a, {safe})"))


@pytest.mark.skipif(not find_spec("ruff"), reason="ruff is in the extra dev")
def test_the_lint_rule_objects_too():
    flags = ["--no-cache", "--output-format=json", f"--config={ROOT / 'pyproject.toml'}", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename=gpt2ft/bad.py", *flags],
        input="import os, subprocess, numpy as np, torch, yaml\n" + BAD_CODE,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    found = json.loads(done.stdout)
    lines = {f["location"]["row"] for f in found if f["code"].startswith(("S", "TID"))}
    assert lines == set(range(2, 2 + len(BAD_CODE.splitlines())))
