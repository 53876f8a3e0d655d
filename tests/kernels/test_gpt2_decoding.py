"""GPT-2's next token in few calls: pytest tests/kernels/test_gpt2_decoding.py"""

import pytest
import torch
import transformers

from gpt2ft.generation.kv_cache import Contexts
from gpt2ft.generation.ready_model import make_ready
from gpt2ft.kernels import accelerate as kernels
from gpt2ft.kernels.gpt2_decoding import GPT2Decoding
from gpt2ft.precision import cpu_multiplies_bf16, cpu_multiplies_int8, resolve_precision

PROMPTS = [[3, 200, 7, 7, 41, 9], [250, 1], [5, 6, 7, 8, 9, 10, 11, 12]]
CPU = torch.device("cpu")
PRECISIONS = ["fp32", *["bf16"] * cpu_multiplies_bf16(), *["int8"] * cpu_multiplies_int8()]
UNUSUAL = {
    "scaled by the layer": {"scale_attn_by_inverse_layer_idx": True},
    "not scaled": {"scale_attn_weights": False},
    "another activation": {"activation_function": "relu"},
    "another width": {"n_inner": 48},
    "as usual": {},
}


def logits_of(model, prompts, n=10):
    contexts, logits = Contexts(model, prompts), []
    tokens = torch.arange(n * len(prompts)).view(n, -1) % 257
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    with torch.inference_mode():
        for step in range(n):
            logits.append(contexts.next_logits().float())
            ended[0] = step > 5 and len(prompts) > 1
            contexts.append(tokens[step], ended)
    return torch.stack(logits, 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("settings", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "alone"])
def test_logits_are_those_of_transformers(prompts, settings, precision, make_model, monkeypatch):
    fast = make_ready(make_model(**settings).eval(), resolve_precision(precision, CPU))
    plain = make_ready(make_model(**settings).eval(), resolve_precision(precision, CPU))
    del plain.transformer.forward  # so that it is that of its class again
    calls, decode = [], GPT2Decoding.decode
    monkeypatch.setattr(
        GPT2Decoding, "decode", lambda *given: calls.append(given) or decode(*given)
    )
    logits = logits_of(fast, prompts)
    assert len(calls) == 9  # every token but the first, for which the prompt is read
    expected = logits_of(plain, prompts)
    assert len(calls) == 9
    kept = slice(1, None) if len(prompts) > 1 else slice(None)  # the first ends early
    if precision == "fp32":
        torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-4, atol=1e-5)
    elif precision == "int8":
        assert torch.equal(logits[kept], expected[kept])
    else:
        assert (logits - expected)[kept].norm() <= 1e-2 * expected[kept].norm()


def test_whatever_else_is_asked_is_left_to_transformers(make_model):
    ids = torch.tensor([[5]])
    plain, fast = make_model().eval(), make_model().eval()
    kernels.accelerate(fast)
    kernels.decode_faster(fast)
    assert isinstance(fast.transformer.forward, GPT2Decoding)
    for asked in ({"output_hidden_states": True}, {"use_cache": False}, {}):
        with torch.inference_mode():
            expected, got = plain(ids, **asked), fast(ids, **asked)
        torch.testing.assert_close(got.logits, expected.logits)
        assert (got.hidden_states is None) == (expected.hidden_states is None)
    cache = transformers.DynamicCache(config=fast.config)
    out = fast(ids, past_key_values=cache, position_ids=torch.tensor([[0]]), use_cache=True)
    assert out.logits.requires_grad  # outside of inference, gradients are computed


def test_models_of_other_parts_stay(make_model, make_llama):
    llama, crossed, eager = make_llama(), make_model(add_cross_attention=True), make_model()
    eager.set_attn_implementation("eager")
    for model in (llama, crossed, eager):
        kernels.accelerate(model)
        kernels.decode_faster(model)
        assert not any(isinstance(x.forward, GPT2Decoding) for x in model.modules())
    kernels.decode_faster(torch.nn.Linear(2, 2))
