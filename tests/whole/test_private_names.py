"""Names that torch, transformers and datasets may drop: pytest tests/whole/test_private_names.py

Each is taken away, and what is computed stays the same.
"""

import ast
import sys
import types
from pathlib import Path

import datasets
import pytest
import torch
import transformers

from gpt2ft import (
    CausalLMCollator,
    Sampling,
    TrainState,
    accelerate,
    build_optimizer,
    causal_lm_loss,
    evaluate,
    generate_tokens,
    guards,
    load_model,
    load_tokenizer,
    tokenize,
    train_step,
)
from gpt2ft.data import token_store
from gpt2ft.generation.ready_model import make_ready
from gpt2ft.kernels.accelerate import pack_linear
from gpt2ft.kernels.int8_linear import can_quantise
from gpt2ft.kernels.packed_linear import PackedLinear
from gpt2ft.models import probe
from gpt2ft.models.untrusted import forget_code, never_ask
from gpt2ft.precision import Precision

PACKAGE = Path(__file__).parent.parent.parent / "gpt2ft"
FP32 = Precision(torch.device("cpu"), None)
ROWS = [[3, 200, 7, 7, 41, 9], [250, 1], [8, 9, 10, 11], [5, 6, 7, 8, 9, 10, 11, 12]]
BATCH = CausalLMCollator(0)([{"input_ids": row} for row in ROWS])


def loss_and_gradients(model):
    loss = causal_lm_loss(model.train(), BATCH)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


def continuations(model):
    steps = generate_tokens(model.eval(), ROWS, Sampling(max_new_tokens=20), seeds=range(4))
    return [step.tokens.tolist() for step in steps]


@pytest.mark.parametrize("scaled", [False, True])
def test_the_protocol_of_fused_optimizers(scaled, make_model):
    """`_step_supports_amp_scaling`, `grad_scale`, `found_inf`: clipped and skipped the same."""

    def trained(protocol):
        model = make_model()
        # With a tiny epsilon AdamW magnifies the rounding of gradients that are nearly 0.
        optimizer = build_optimizer(model, learning_rate=1e-2, epsilon=1e-3)
        if not protocol:
            del optimizer._step_supports_amp_scaling
        state = TrainState.create(model, optimizer, precision=FP32)
        if scaled:
            state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        spoiled = (1, 4)
        results = [
            train_step(
                state,
                [BATCH],
                max_grad_norm=0.5,
                loss_fn=lambda m, b, n=n: causal_lm_loss(m, b) * (torch.nan if n in spoiled else 1),
            )
            for n in range(6)
        ]
        assert [bool(result.skipped) for result in results] == [n in spoiled for n in range(6)]
        assert int(state.skipped_steps) == 2
        return [p.detach() for p in model.parameters()], state.scaler.state_dict()

    ours, scale = trained(protocol=True)
    plain, other_scale = trained(protocol=False)
    assert scale == other_scale
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_softmax_backward_data(make_model, monkeypatch):
    models = [make_model(), make_model()]
    for model in models:
        accelerate(model)
        assert model.config._attn_implementation == "gpt2ft"
    expected = loss_and_gradients(models[0])
    monkeypatch.delattr(torch, "_softmax_backward_data")
    torch.testing.assert_close(loss_and_gradients(models[1]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gone", ["_reorder_linear_weight", "_linear_pointwise", "both"])
def test_the_linear_operations_of_mkldnn(gone, make_model, monkeypatch):
    plain, packed = make_model(seed=3), make_model(seed=3)
    pack_linear(plain)
    had_them = any(isinstance(module, PackedLinear) for module in plain.modules())
    names = {"_reorder_linear_weight", "_linear_pointwise"} - {gone}
    left = {name: getattr(torch.ops.mkldnn, name) for name in names} if gone != "both" else {}
    monkeypatch.setattr(torch.ops, "mkldnn", types.SimpleNamespace(**left))
    pack_linear(packed)
    assert not any(isinstance(module, PackedLinear) for module in packed.modules())
    monkeypatch.undo()
    assert continuations(packed) == continuations(plain)
    assert had_them or not torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("gone", ["qlinear_prepack", "qlinear_pointwise"])
def test_the_int8_operations_of_onednn(gone, make_model, monkeypatch):
    """Nothing else computes in int8 as fast: it says so, instead of being slow or wrong."""
    left = {"qlinear_prepack", "qlinear_pointwise"} - {gone}
    operations = {name: getattr(torch.ops.onednn, name) for name in left}
    monkeypatch.setattr(torch.ops, "onednn", types.SimpleNamespace(**operations))
    can_quantise.cache_clear()
    with pytest.raises(ValueError, match="not supported by this version of torch"):
        make_ready(make_model(), Precision(torch.device("cpu"), None, int8=True))
    can_quantise.cache_clear()


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_dynamo(make_model, monkeypatch):
    """Without it, evaluation does not know that something is compiled, and is compiled too."""
    model = make_model()
    for block in model.transformer.h:
        block.compile(backend="eager")
    data = types.SimpleNamespace
    loss = causal_lm_loss(model, BATCH).item()

    class Data:
        def __len__(self):
            return 1

        def __getitem__(self, position):
            return BATCH

    assert "torch._dynamo" in sys.modules
    expected = evaluate(model, Data(), precision=FP32)
    monkeypatch.setattr(guards, "sys", data(modules={}))
    assert evaluate(model, Data(), precision=FP32).loss == pytest.approx(expected.loss, abs=1e-6)
    assert expected.loss == pytest.approx(loss / expected.n_targets, abs=1e-5)


def test_the_layers_of_the_cache(make_model, monkeypatch):
    expected = continuations(make_model(seed=3))
    monkeypatch.delattr(transformers.cache_utils, "DynamicLayer")
    monkeypatch.delitem(sys.modules, "gpt2ft.generation.growing_layer")
    assert continuations(make_model(seed=3)) == expected
    assert "gpt2ft.generation.growing_layer" not in sys.modules


def test_the_fingerprint_of_a_data_set(documents, tokenizer, monkeypatch):
    expected = tokenize(documents, tokenizer).digest()
    monkeypatch.setattr(token_store, "FINGERPRINT", "_gone")
    assert tokenize(documents, tokenizer).digest() == expected


def test_the_hooks_of_a_module(make_model, monkeypatch):
    expected = loss_and_gradients(make_model())
    monkeypatch.setattr(probe, "HOOKS", ("_gone",))
    model = make_model()
    assert probe.plain_head(model) is None
    torch.testing.assert_close(loss_and_gradients(model), expected, rtol=1e-5, atol=1e-6)


def test_the_attention_that_a_configuration_names(make_model, monkeypatch):
    expected = loss_and_gradients(make_model())
    monkeypatch.setattr(probe, "ATTENTION", "_gone")
    model = make_model()
    accelerate(model)
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(loss_and_gradients(model), expected, rtol=1e-5, atol=1e-6)


def test_the_activation_of_gpt2(make_model, monkeypatch):
    expected = loss_and_gradients(make_model())
    model = make_model()
    monkeypatch.delattr(transformers.activations, "NewGELUActivation")
    accelerate(model)
    torch.testing.assert_close(loss_and_gradients(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["names", "modules"])
def test_the_insides_of_loading(way, model_folder, make_model, monkeypatch):
    insides = {
        "transformers.utils.hub": "resolve_revision",
        "transformers.models.auto.tokenization_auto": "tokenizer_class_from_name",
        "transformers.dynamic_module_utils": "TIME_OUT_REMOTE_CODE",
    }
    from gpt2ft.models import untrusted

    for module, name in insides.items():
        if way == "names" and name != "TIME_OUT_REMOTE_CODE":  # which transformers reads itself
            # Only for us: transformers looks for some of them, too.
            original = untrusted._internal
            monkeypatch.setattr(
                untrusted,
                "_internal",
                lambda m, n, name=name, original=original: None if n == name else original(m, n),
            )
        elif way == "modules":
            importer = untrusted.importlib.import_module
            monkeypatch.setattr(
                untrusted,
                "importlib",
                types.SimpleNamespace(import_module=_without(module, importer)),
            )
    never_ask()
    model, tokenizer = load_model(str(model_folder)), load_tokenizer(str(model_folder))
    for a, b in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(a, b)
    assert tokenizer("ab")["input_ids"] == load_tokenizer(str(model_folder))("ab")["input_ids"]
    forget_code(types.SimpleNamespace())  # a tokenizer without init_kwargs


def _without(gone, importer):
    def import_module(name):
        raise ImportError(name) if name.startswith("transformers.") else importer(name)

    return import_module


# Where each name stands that is private to a library, and nowhere else.
ROOMS = {
    "_step_supports_amp_scaling": "optim.py",
    "grad_scale": "optim.py",
    "found_inf": "optim.py",
    "_softmax_backward_data": "kernels/attention.py",
    "_reorder_linear_weight": "kernels/packed_linear.py",
    "_linear_pointwise": "kernels/packed_linear.py",
    "qlinear_prepack": "kernels/int8_linear.py",
    "qlinear_pointwise": "kernels/int8_linear.py",
    "torch._dynamo": "guards.py",
    "DynamicLayer": "generation/growing_layer.py",
    "_fingerprint": "data/token_store.py",
    "_forward_hooks": "models/probe.py",
    "_forward_pre_hooks": "models/probe.py",
    "_attn_implementation": "models/probe.py",
    "NewGELUActivation": "kernels/accelerate.py",
    "resolve_revision": "models/untrusted.py",
    "tokenizer_class_from_name": "models/untrusted.py",
    "TIME_OUT_REMOTE_CODE": "models/untrusted.py",
    "init_kwargs": "models/untrusted.py",
}
MODULES = ("torch", "transformers", "datasets", "model", "module", "tokenizer", "config", "cache")


def private_names(path):
    """Attributes `x._name` of what belongs to a library, and strings that are such names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if (
                owner in MODULES and node.attr.startswith("_") and not node.attr.startswith("__")
            ) or node.attr in ROOMS:
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in ROOMS:
            yield node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            yield from (alias.name for alias in node.names if alias.name in ROOMS)


def test_each_private_name_stands_in_one_room():
    found = {
        (name, path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
        for name in private_names(path)
    }
    assert found == set(ROOMS.items())


def test_the_data_set_library_is_asked_for_no_more():
    assert hasattr(datasets.Dataset.from_dict({"text": ["a"]}), token_store.FINGERPRINT)
