"""pytest tests/generation/test_kv_cache.py"""

import inspect
import types

import pytest
import torch
import transformers

from gpt2ft.generation.kv_cache import CACHE_NAMES, Contexts, Prefix
from gpt2ft.generation.sampling import generate_tokens
from tests.support.families import small_config
from tests.support.settings import with_settings

generate_tokens = with_settings(generate_tokens)

TEXT = [7, 3, 200, 41, 5, 9, 9, 13]


def tokens_of(model, prompt, prefix=None, n=12):
    steps = generate_tokens(model, [prompt], max_new_tokens=n, seeds=[4], prefix=prefix)
    return [int(step.tokens) for step in steps]


@pytest.fixture
def widths(monkeypatch):
    """How many tokens the model was given at each call."""
    seen = []
    original = Contexts._forward

    def forward(self, ids, **given):
        seen.append(ids.shape[1])
        return original(self, ids, **given)

    monkeypatch.setattr(Contexts, "_forward", forward)
    return seen


@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_what_did_not_change_is_not_read_again(kind, request, widths):
    """The same prompt, one that goes on, one that differs in the middle, another: the same tokens
    as without, and only what is new is read."""
    model = request.getfixturevalue(kind)().eval()
    prefix = Prefix()
    first = tokens_of(model, TEXT, prefix)
    longer = [*TEXT, *first, 17, 18]
    for prompt, new in (
        (TEXT, 1),
        (longer, len(longer) - len(TEXT) - 11),  # the last token drawn was never read
        ([*longer[:12], 99, 98, 97], 3),
        ([50, 51], 2),
        ([50], 1),
    ):
        widths.clear()
        with_prefix = tokens_of(model, prompt, prefix)
        assert widths == [new] + [1] * 11
        assert with_prefix == tokens_of(model, prompt)


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_the_cache_has_two_names(name, make_model, widths, monkeypatch):
    """transformers 5.24 renamed it; without it every token would cost reading the whole text."""
    model = make_model().eval()
    expected = tokens_of(model, TEXT)
    original = model.forward
    signature = inspect.signature(original)
    (own,) = (known for known in CACHE_NAMES if known in signature.parameters)

    def forward(input_ids, **given):
        output = original(input_ids, **{own: given.pop(name)}, **given)
        return types.SimpleNamespace(logits=output.logits, **{name: getattr(output, own)})

    parameters = signature.parameters.values()
    renamed = [p.replace(name=name) if p.name == own else p for p in parameters]
    forward.__signature__ = signature.replace(parameters=renamed)
    monkeypatch.setattr(model, "forward", forward)
    widths.clear()
    assert tokens_of(model, TEXT) == expected
    assert widths == [len(TEXT)] + [1] * 11


def test_a_cache_of_states_is_not_used(make_llama, monkeypatch):
    """Mamba's has the newer name too; what it read of the padding would be in its states."""
    model = transformers.AutoModelForCausalLM.from_config(small_config("mamba")).eval()
    signature = inspect.signature(model.forward)
    names = [CACHE_NAMES[1] if name == "cache_params" else name for name in signature.parameters]
    parameters = zip(signature.parameters.values(), names, strict=True)
    original = model.forward

    def forward(input_ids, **given):
        return original(input_ids, **given)

    forward.__signature__ = signature.replace(parameters=[p.replace(name=n) for p, n in parameters])
    monkeypatch.setattr(model, "forward", forward)
    assert not Contexts(model, [TEXT])._cached
    assert Contexts(make_llama().eval(), [TEXT])._cached


def test_a_prefix_past_the_window(model, widths):
    """The window of 64 is outgrown, and the text goes on: what is kept is only what fits."""
    model.eval()
    prefix, text = Prefix(), list(TEXT)
    for _ in range(4):
        plain = tokens_of(model, text, n=30)
        assert tokens_of(model, text, prefix, n=30) == plain
        text += plain
    assert len(text) > 64 and max(widths) <= 64


def test_a_model_interrupted_leaves_no_half_of_a_prefix(model, monkeypatch):
    """Some layers have the new keys and others not: none of it may be used."""
    model.eval()
    prefix = Prefix()
    tokens_of(model, TEXT, prefix)
    second = model.transformer.h[1]
    original = second.forward

    def interrupted(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(second, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokens_of(model, [*TEXT, 5, 6], prefix)
    monkeypatch.setattr(second, "forward", original)
    assert tokens_of(model, [*TEXT, 5, 6], prefix) == tokens_of(model, [*TEXT, 5, 6])


def test_a_sliding_window_that_keeps_nothing_behind_it():
    """Its cache cannot go back: the text is read again, with the same result."""
    import transformers

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
    config = transformers.MistralConfig(
        vocab_size=257, intermediate_size=64, num_key_value_heads=2, sliding_window=6, **sizes
    )
    model = transformers.MistralForCausalLM(config).eval()
    prefix = Prefix()
    first = tokens_of(model, TEXT, prefix)
    for prompt in (TEXT, [*TEXT, *first, 4], [*TEXT[:3], 8]):
        assert tokens_of(model, prompt, prefix) == tokens_of(model, prompt)
