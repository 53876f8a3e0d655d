"""LoRA and frozen parts, compared with peft's own: pytest tests/models/test_adapters.py"""

import json
import sys

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gpt2ft import load_model, load_tokenizer, loss
from gpt2ft.checkpoint import model_files
from gpt2ft.models import adapters, probe
from tests.support.families import FAMILIES
from tests.support.tiny import tiny_gpt2

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient:FutureWarning")  # of peft

IDS = torch.tensor([[5, 80, 3, 200, 17, 42, 9, 101], [1, 2, 2, 1, 7, 7, 8, 250]])


def tiny(kind):
    """A new model of that kind."""
    if kind == "gpt2":
        return tiny_gpt2()
    torch.manual_seed(0)
    settings = {"num_key_value_heads": 2, "intermediate_size": 64} if kind == "llama" else {}
    sizes = {**FAMILIES.get(kind, FAMILIES["gpt_neox"]), "vocab_size": 257, **settings}
    config = transformers.AutoConfig.for_model(kind, max_position_embeddings=64, **sizes)
    return transformers.AutoModelForCausalLM.from_config(config)


def adapted(model, *, targets=None, r=4, trained=True):
    """With an adapter that has learned something, as far as the logits show."""
    targets = targets or adapters.default_targets(model)
    adapters.add_lora(model, r=r, alpha=8, dropout=0.1, targets=targets, seed=3)
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if trained and "lora_B" in name:
            p.data.normal_(std=0.1, generator=generator)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A function that saves a model and its adapter, and returns the two folders."""

    def save(kind="gpt2", **settings):
        base, folder = tmp_path / "base", tmp_path / "adapter"
        model = tiny(kind)
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
        adapted(model, **settings)
        adapters.note_base(model, str(base), "main")
        folder.mkdir()
        model_files.write(folder, model, tokenizer)
        return base, folder

    return save


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
def test_peft_loads_what_is_saved_and_merging_gives_the_same(kind, saved):
    base, folder = saved(kind)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    expected = logits(peft.PeftModel.from_pretrained(model, folder).eval())
    assert (expected - logits(load_model(str(base)))).abs().max() > 1e-3
    loaded = load_model(str(folder))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)
    assert type(loaded) is type(load_model(str(base)))
    assert all(p.requires_grad for p in loaded.parameters())
    assert loaded.state_dict().keys() == load_model(str(base)).state_dict().keys()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
def test_a_merged_copy_computes_the_same_and_leaves_the_model(kind, tmp_path):
    model = adapted(tiny(kind))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain = adapters.merged(model)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=0)
    assert not any("lora" in name for name in plain.state_dict())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    embeddings = [m.get_input_embeddings().weight.data_ptr() for m in (plain, model)]
    assert embeddings[0] == embeddings[1]  # shared, as it has no adapter
    plain.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), logits(plain), atol=1e-6, rtol=0)


def test_an_adapter_that_peft_saved_is_loaded(tmp_path, tokenizer):
    """With its wrapper's names, dtype and rank-stabilized scaling."""
    tiny_gpt2().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        use_rslora=True,
        target_modules=["c_attn", "c_fc"],
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(model, settings).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), logits(wrapped), atol=1e-5, rtol=0)
    ids = load_tokenizer(str(tmp_path / "adapter"))("ab")["input_ids"]  # it has none of its own
    assert ids == tokenizer("ab")["input_ids"]


def test_the_base_is_found_from_here_and_from_the_adapter(saved, tmp_path, monkeypatch):
    _, folder = saved()
    expected = logits(load_model(str(folder)))
    settings = json.loads((folder / "adapter_config.json").read_text())
    for place, name in ((tmp_path, "base"), (tmp_path, "../base"), (folder, "../base")):
        settings["base_model_name_or_path"] = name
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        monkeypatch.chdir(place)
        assert torch.equal(logits(load_model(str(folder))), expected)


def test_new_weights_are_a_function_of_the_seed_and_add_nothing():
    models = [tiny_gpt2(), tiny_gpt2()]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        adapted(model, trained=False)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(logits(models[0]), logits(tiny_gpt2().eval()))
    name = "transformer.h.1.attn.c_attn.lora_A.default.weight"
    assert torch.equal(*(model.get_parameter(name) for model in models))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gpt2", ["c_attn"]),
        ("llama", ["q_proj", "v_proj"]),
        ("gpt_neox", ["query_key_value"]),
        ("olmo2", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ],
)
def test_default_targets_are_those_of_peft_or_all_but_the_head(kind, expected):
    assert adapters.default_targets(tiny(kind)) == expected


def test_the_head_of_an_adapted_model_is_still_plain():
    model = adapted(tiny_gpt2())
    assert probe.plain_head(model) is model.lm_head.weight
    batch = {"input_ids": IDS, "labels": IDS}
    expected = model(**batch).loss * 14
    found = loss.causal_lm_loss(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    found.backward()
    assert names == {n for n, p in model.named_parameters() if p.grad is not None}
    assert all(".lora_" in name for name in names)


def test_freezing_goes_by_patterns_and_either_name_of_a_tied_weight(model):
    adapters.freeze(model, ["lm_head.weight", "*.h.0.*"])
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "transformer.wte.weight" not in trained and "transformer.wpe.weight" in trained
    assert {n.split(".")[2] for n in trained if ".h." in n} == {"1"}
    with pytest.raises(
        ValueError, match=r"--freeze \*\.h\.0\.\* fits no parameter that is trained"
    ):
        adapters.freeze(model, ["*.h.0.*"])
    with pytest.raises(ValueError, match=r"--freeze \* leaves nothing to train"):
        adapters.freeze(model, ["*"])


def test_without_peft_it_is_said_what_to_install(saved, monkeypatch):
    _, folder = saved()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'gpt2ft\[lora\]'"):
        load_model(str(folder))


def _settings(**values):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _tensors(change):
    def edit(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
# What is done to an adapter that is in order, and what is said of it.
REFUSED = {
    "another kind": (_settings(peft_type="IA3"), "it is an adapter of the type IA3, not LORA"),
    "no base": (_settings(base_model_name_or_path=None), "names no model"),
    "base is a list": (_settings(base_model_name_or_path=["a"]), "names no model"),
    "base is gone": (
        _settings(base_model_name_or_path="./gone"),
        r"adapter is an adapter of the model ./gone: no folder .*gone",
    ),
    "base is itself": (
        _settings(base_model_name_or_path="."),
        r"it is an adapter \(adapter_config.json\), merge it into its model first",
    ),
    "a module to import": (_settings(megatron_core="os.path"), "sets megatron_core, which is not"),
    "a module's settings": (_settings(megatron_config={"a": 1}), "sets megatron_config, which"),
    "layers twice": (_settings(layer_replication=[[0, 2]]), "sets layer_replication, which"),
    "DoRA": (_settings(use_dora=True), "sets use_dora, which is not supported here"),
    "changed weights": (_settings(init_lora_weights="pissa"), "sets init_lora_weights, which"),
    "a setting of the future": (_settings(new=1), "sets new, which is not supported"),
    "another rank": (_settings(r=2**40), r"is \(4, 32\), but its r is 1099511627776"),
    "no rank": (_settings(r="4"), r"is \(4, 32\), but its r is 4"),
    "a pickle": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "without adapter_model.safetensors, no other file is read",
    ),
    "cut off": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 20),
        "is damaged",
    ),
    "no tensors": (_tensors(dict.clear), "holds no tensors"),
    "a tensor of the model": (
        _tensors(lambda t: t.update({"lm_head.weight": torch.ones(2, 2)})),
        "its tensor lm_head.weight is not one of LoRA",
    ),
    "a tensor missing": (_tensors(lambda t: t.pop(FIRST)), "not those of its layers"),
    "a layer that is not there": (
        _tensors(lambda t: t.update({FIRST.replace("h.0", "h.7"): torch.ones(4, 32)})),
        "not those of its layers in this model, .*h.7",
    ),
    "not finite": (_tensors(lambda t: t[FIRST].fill_(torch.nan)), "NaNs detected"),
    "nested": (
        lambda f: (f / "adapter_config.json").write_text("[" * 100_000),
        "recursion",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_from_elsewhere_that_is_not_plain_lora_is_refused(name, saved, monkeypatch):
    _, folder = saved()
    monkeypatch.chdir(folder)
    attack, says = REFUSED[name]
    attack(folder)
    with pytest.raises((ValueError, OSError), match=says):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["nonsense"], "nonsense names no linear layer of GPT2LMHeadModel, there are c_attn"),
        (["wte"], "wte names no linear layer"),
        (["attn"], "attn names no linear layer"),
        (["c_attn", "lm_head"], "names lm_head, whose weight is tied"),
    ],
)
def test_layers_that_cannot_get_an_adapter_are_refused(targets, says, model):
    with pytest.raises(ValueError, match=says):
        adapters.add_lora(model, r=4, alpha=8, dropout=0, targets=targets, seed=0)
