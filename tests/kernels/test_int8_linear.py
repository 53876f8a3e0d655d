"""Linear layers of 8-bit integers: pytest tests/kernels/test_int8_linear.py"""

import math

import pytest
import torch
import transformers

from gpt2ft import load_model, load_tokenizer, resolve_precision
from gpt2ft.data.built_in import python_reference
from gpt2ft.generation.kv_cache import Contexts
from gpt2ft.generation.ready_model import make_ready
from gpt2ft.kernels import int8_linear
from gpt2ft.kernels.int8_linear import Int8Linear, can_quantise, quantise_rows
from gpt2ft.precision import Precision, cpu_multiplies_int8
from tests.support.families import FAMILIES, SMALLER

CPU = torch.device("cpu")
has_int8 = pytest.mark.skipif(not cpu_multiplies_int8(), reason="this CPU has no int8 products")
PROMPTS = [[3, 200, 7, 7, 41, 9], [250, 1], [8, 9, 10, 11], [5, 6, 7, 8, 9, 10, 11, 12], [250, 1]]


def nearest_integers(row):
    """The scale and the 8-bit integers of a row of numbers, one by one."""
    scale = max(abs(x) for x in row) / 127
    return scale, [round(x / scale) for x in row]


def test_rows_are_quantised_to_the_nearest_integers():
    weight = torch.randn(9, 13, generator=torch.Generator().manual_seed(0)).T
    integers, scales = quantise_rows(weight)
    assert integers.dtype is torch.int8 and integers.is_contiguous()
    for row, mine, scale in zip(weight.tolist(), integers.tolist(), scales.tolist(), strict=True):
        expected, numbers = nearest_integers(row)
        assert scale == pytest.approx(expected, rel=1e-6) and mine == numbers


@has_int8
@pytest.mark.parametrize("shape", [(1, 64), (2, 3, 64), (200, 64), (0, 64), (2, 0, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_against_integers_in_python(shape, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 50, bias=bias)
    layer, x = Int8Linear(linear.weight, linear.bias), torch.randn(shape)
    weight = [nearest_integers(row) for row in linear.weight.tolist()]
    out = layer(x)
    assert out.shape == (*shape[:-1], 50) and out.dtype is torch.float32
    added = linear.bias.tolist() if bias else [0.0] * 50
    for row, got in zip(x.reshape(-1, 64).tolist(), out.reshape(-1, 50).tolist(), strict=True):
        scale, mine = nearest_integers(row)
        for column, (w_scale, integers) in enumerate(weight):
            total = sum(a * b for a, b in zip(mine, integers, strict=True))
            expected = total * scale * w_scale + added[column]
            assert got[column] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@has_int8
def test_its_weight_is_what_it_multiplies_by():
    weight = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    integers, scales = quantise_rows(weight)
    assert torch.equal(Int8Linear(weight).weight, integers * scales[:, None])


@has_int8
@pytest.mark.parametrize("width", [32, 48, 768])
def test_a_row_gives_the_same_bits_in_any_company(width):
    torch.manual_seed(0)
    linear = torch.nn.Linear(width, 3 * width + 1)
    layer, x = Int8Linear(linear.weight, linear.bias), torch.randn(37, width)
    together = layer(x)
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), together)
    assert torch.equal(torch.cat([layer(x[:5]), layer(x[5:])]), together)


@has_int8
def test_zeros_give_the_bias_and_what_is_not_finite_shows():
    linear = torch.nn.Linear(64, 50)
    layer, bad = Int8Linear(linear.weight, linear.bias), torch.zeros(3, 64)
    bad[1, 5], bad[2, 5] = torch.nan, torch.inf
    out = layer(bad)
    assert torch.equal(out[0], linear.bias)
    assert not out[1].isfinite().any() and not out[2].isfinite().any()
    weight = linear.weight.detach().clone()
    weight[0] = 0
    weight[1, 3], weight[2, 3] = torch.nan, torch.inf
    out = Int8Linear(weight)(torch.randn(1, 64))
    assert out[0, 0] == 0 and not out[0, 1:3].isfinite().any() and out[0, 3:].isfinite().all()


def small(family):
    torch.manual_seed(0)
    sizes = {**FAMILIES[family], **SMALLER.get(family, {})}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    config = transformers.AutoConfig.for_model(family, vocab_size=257, **sizes, **special)
    return transformers.AutoModelForCausalLM.from_config(config)


KINDS = [*FAMILIES, "gpt2", "llama"]


def made(family, make_model, make_llama):
    make = {"gpt2": make_model, "llama": make_llama}.get(family, lambda: small(family))
    return make().eval()


def next_logits(model, prompts, n=12):
    """Logits `(B, n, V)` of each of n tokens, greedily; one text of several is ended early."""
    contexts, logits = Contexts(model, prompts), []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    with torch.inference_mode():
        for step in range(n):
            logits.append(contexts.next_logits())
            if step == 3 and len(prompts) > 1:
                ended[-1] = True
            contexts.append(logits[-1].argmax(-1), ended)
    return torch.stack(logits, 1)


@has_int8
@pytest.mark.parametrize("family", KINDS)
def test_any_family_in_int8(family, make_model, make_llama):
    """Near the fp32 model, by the layers of integers alone; and alone as in a batch."""
    plain, ready = (made(family, make_model, make_llama) for _ in range(2))
    make_ready(ready, resolve_precision("int8", CPU))
    kinds = {type(module).__name__ for module in ready.modules()}
    assert "Int8Linear" in kinds and not kinds & {"Linear", "Conv1D"}
    ids = torch.tensor([[3, 200, 7, 7, 41, 9]])
    with torch.no_grad():
        expected, logits = plain(ids).logits, ready(ids).logits
    assert 1e-4 * expected.norm() <= (logits - expected).norm() <= 0.05 * expected.norm()
    together = next_logits(ready, PROMPTS)[:-1]
    alone = torch.cat([next_logits(ready, [prompt]) for prompt in PROMPTS[:-1]])
    if family == "gemma2":  # its attention is eager: it adds up the padding's zeros, too
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-2)
    else:
        assert torch.equal(alone, together)


@has_int8
def test_the_perplexity_of_a_trained_model():
    """GPT-2 mini on text that it was not trained on: within 1 % of that in fp32, by 8 x 256."""
    tokenizer = load_tokenizer("gpt2-mini")
    ids = tokenizer("\n".join(python_reference()))["input_ids"][: 8 * 256]
    batch, perplexity = torch.tensor(ids).view(8, 256), {}
    for name in ("fp32", "int8"):
        model = make_ready(load_model("gpt2-mini").eval(), resolve_precision(name, CPU))
        with torch.no_grad():
            logits = model(batch).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
        perplexity[name] = math.exp(loss)
    assert perplexity["int8"] != perplexity["fp32"]
    assert perplexity["int8"] == pytest.approx(perplexity["fp32"], rel=0.01)


def test_where_it_is_refused(monkeypatch, make_model):
    for device in ("cuda", "mps"):
        with pytest.raises(ValueError, match=f"int8 is not supported on {device}, use fp16"):
            resolve_precision("int8", torch.device(device))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(ValueError, match="by this CPU, it has no VNNI, use fp32"):
        resolve_precision("int8", CPU)


@has_int8
def test_products_that_are_not_exact_are_noticed(monkeypatch, make_model):
    """As on a CPU that adds two of them in 16 bits, where they saturate."""

    def saturated(self, integers):
        sums = integers.double() @ self.weight.T.double() - 128 * self.weight.sum(-1)
        return sums.clamp(max=32767.0).float()

    can_quantise.cache_clear()
    monkeypatch.setattr(int8_linear.Int8Linear, "_sums", saturated)
    with pytest.raises(ValueError, match="not supported by this version of torch on this CPU"):
        make_ready(make_model(), Precision(CPU, None, int8=True))
    monkeypatch.undo()
    can_quantise.cache_clear()
    assert can_quantise()


def test_it_is_for_generating_alone():
    precision = Precision(CPU, None, int8=True)
    with pytest.raises(ValueError, match="int8 is for generating, use fp32 or bf16"):
        precision.scaler()
