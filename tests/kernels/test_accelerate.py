"""What makes a CPU faster, against what it replaces: pytest tests/kernels/test_accelerate.py"""

import functools
import json

import pytest
import torch
import transformers

from gpt2ft import CausalLMCollator, accelerate, causal_lm_loss, count_targets
from gpt2ft.generation.sampling import generate_tokens
from gpt2ft.guards import undisturbed
from gpt2ft.kernels import accelerate as kernels
from gpt2ft.kernels import attention, dropout
from gpt2ft.kernels.packed_linear import PackedLinear
from gpt2ft.models import probe
from gpt2ft.precision import cpu_multiplies_bf16
from tests.support.families import FAMILIES, SMALLER
from tests.support.settings import with_settings

generate_tokens = with_settings(generate_tokens)

SDPA = transformers.AttentionInterface()["sdpa"]
ROWS = [[3, 200, 7, 7, 41, 9], [250, 1], [8, 9, 10, 11], [5, 6, 7, 8, 9, 10, 11, 12]]


def small(family, **settings):
    torch.manual_seed(0)
    sizes = {**FAMILIES[family], **SMALLER.get(family, {}), **settings}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    config = transformers.AutoConfig.for_model(family, vocab_size=257, **sizes, **special)
    return transformers.AutoModelForCausalLM.from_config(config)


def trained(model, *, position_ids=False):
    """Loss and gradients of padded rows, or of packed documents."""
    batch = CausalLMCollator(0)([{"input_ids": row} for row in ROWS])
    if position_ids:
        row = [token for row in ROWS for token in row]
        batch = {"input_ids": torch.tensor([row]), "labels": torch.tensor([row])}
        batch["position_ids"] = torch.tensor([[i for row in ROWS for i in range(len(row))]])
    loss, n = causal_lm_loss(model.train(), batch), count_targets(batch)
    (loss / n).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss / n, gradients


TAKES_NO_POSITIONS = ("bloom", "opt", "mamba")
KINDS = [*FAMILIES, "gpt2", "llama"]
CASES = [(kind, packed) for kind in KINDS for packed in (False, True)]
CASES = [(kind, packed) for kind, packed in CASES if not (packed and kind in TAKES_NO_POSITIONS)]


@pytest.mark.parametrize(("family", "packed"), CASES)
def test_any_family_learns_the_same(family, packed, make_model, make_llama):
    """Loss and every gradient, before and after; and what it writes."""
    off = {"dropout": 0.0, "attention_dropout": 0.0} if family == "opt" else {}
    make = {"gpt2": make_model, "llama": make_llama}.get(family, lambda: small(family, **off))
    plain, fast = make(), make()
    accelerate(fast)
    (loss, gradients), (ours, own) = (trained(m, position_ids=packed) for m in (plain, fast))
    torch.testing.assert_close(ours, loss, rtol=1e-6, atol=1e-6)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6)
    texts = [
        [
            step.tokens.tolist()
            for step in generate_tokens(m.eval(), ROWS, max_new_tokens=9, seeds=range(4))
        ]
        for m in (plain, fast)
    ]
    assert texts[0] == texts[1]


def test_rotary_positions_learn_under_autocast(make_llama):
    """They make fp32 of queries and keys, while values are bf16."""
    ids = torch.arange(48).view(2, 24) % 200
    gradients = []
    for faster in (False, True):
        model = make_llama()
        if faster:
            accelerate(model)
        with torch.autocast("cpu", torch.bfloat16):
            loss = causal_lm_loss(model, {"input_ids": ids, "labels": ids})
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch_s, ours = gradients
    assert (ours - torch_s).norm() < 0.02 * torch_s.norm()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of what it traces
def test_compiled_blocks_learn_the_same(make_model, monkeypatch):
    """And what is evaluated or written in between is not compiled."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()  # traces as ever, and runs what it traced without a C++ compiler
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        functools.partialmethod(torch.nn.Module.compile, backend=counter),
    )
    plain, compiled = make_model(), make_model()
    kernels.compile_blocks(compiled)
    for packed in (False, True):
        (loss, gradients), (ours, own) = (
            trained(m, position_ids=packed) for m in (plain, compiled)
        )
        torch.testing.assert_close(ours, loss, rtol=1e-6, atol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-6)
    n_compiled = counter.frame_count
    assert n_compiled >= 2
    with undisturbed(compiled):
        list(generate_tokens(compiled, ROWS, max_new_tokens=5, seeds=range(4)))
    trained(compiled, position_ids=True)
    assert counter.frame_count == n_compiled


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_what_is_tried_on_a_compiled_model_is_not_compiled(make_model, monkeypatch):
    """It has lengths of its own: after those, torch would compile for any length, which is slow."""
    torch.compiler.reset()  # what other tests compiled
    lengths = []

    def backend(graph, inputs):
        lengths.extend(size for x in inputs for size in x.shape[1:2])
        return graph.forward

    compiles = functools.partialmethod(torch.nn.Module.compile, backend=backend)
    monkeypatch.setattr(torch.nn.Module, "compile", compiles)
    model = make_model().train()
    kernels.compile_blocks(model)
    assert probe.is_causal(model) and probe.keeps_documents_apart(model)
    assert probe.plain_head(model) is not None
    assert lengths == []
    batch = {"input_ids": torch.zeros(2, 13, dtype=torch.int64)}
    batch["labels"] = batch["input_ids"]
    for _ in range(2):
        causal_lm_loss(model, batch).backward()
        probe.is_causal(model)
    assert set(lengths) & {2, 3, 4, 13} == {13} and {type(n) for n in lengths} == {int}


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_a_model_that_is_moved_computes_on_its_device(family, make_model):
    """Also with dropout, whose masks and seeds come from the CPU there."""
    dropped = {"attention_dropout": 0.5, "attn_implementation": "sdpa"}
    model = make_model(dropout=0.5) if family == "gpt2" else small(family, **dropped)
    accelerate(model)
    trained(model)
    model.zero_grad(set_to_none=True)
    model.to("meta").train()
    logits = model(input_ids=torch.zeros(2, 12, dtype=torch.int64, device="meta")).logits
    logits.sum().backward()
    assert logits.device.type == "meta"
    assert {p.grad.device.type for p in model.parameters()} == {"meta"}
    with torch.no_grad():
        model.eval()(input_ids=torch.zeros(2, 1, dtype=torch.int64, device="meta"))


def test_what_is_saved_does_not_change(model, make_model, tmp_path):
    accelerate(model)
    model.save_pretrained(tmp_path / "fast")
    make_model().save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        assert (tmp_path / "fast" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "fast")
    assert loaded.config._attn_implementation == "sdpa"
    assert (
        json.loads((tmp_path / "fast/config.json").read_text())["activation_function"] == "gelu_new"
    )


def test_the_mode_stays(make_model):
    """Dropout in a text that is written would be noise."""
    for training in (False, True):
        model = make_model(dropout=0.5).train(training)
        accelerate(model)
        kernels.pack_linear(model)
        assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", KINDS)
def test_packed_layers_write_the_same(family, dtype, make_model, make_llama):
    if dtype is torch.bfloat16 and not cpu_multiplies_bf16():
        pytest.skip("this CPU has no bf16 products")
    make = {"gpt2": make_model, "llama": make_llama}.get(family, lambda: small(family))
    plain, packed = (make().to(dtype).eval() for _ in range(2))
    kernels.pack_linear(packed)
    kinds = {type(module).__name__ for module in packed.modules()}
    assert "PackedLinear" in kinds and not kinds & {"Linear", "Conv1D"}
    ids = torch.tensor([[3, 200, 7, 7, 41, 9]])
    with torch.no_grad():
        expected, logits = plain(ids).logits, packed(ids).logits
    near = 1e-5 if dtype is torch.float32 else 2e-2
    assert (logits - expected).norm() <= near * expected.norm()


@pytest.mark.parametrize("rows", [0, 1, 3, 32, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer(rows, bias):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 50, bias=bias)
    packed = PackedLinear(layer.weight, layer.bias)
    x = torch.randn(2, rows, 64).transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), layer(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(packed.weight, layer.weight)


def test_where_nothing_can_be_packed_layers_stay(model, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    kernels.pack_linear(model)
    assert "PackedLinear" not in {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize("p", [0.1, 0.5, 1 / 65536, 0.999])
def test_dropout_keeps_the_share_it_should(p):
    """Of each of the four elements that share a random number; and scales by what it keeps."""
    n = 4_000_004
    kept = dropout.dropout_mask(torch.Size([n]), p, 7) != 0
    level = round(p * 65536) / 65536
    assert dropout.mask_scale(p) == 1 / (1 - level)
    for lane in range(4):
        share = kept[lane::4].double().mean().item()
        deviation = (level * (1 - level) / (n / 4)) ** 0.5
        assert abs(share - (1 - level)) < 5 * deviation
    both = (kept[::4] & kept[1::4]).double().mean()
    assert abs(both - (1 - level) ** 2) < 5 * ((1 - level) ** 2 / (n / 4)) ** 0.5
    assert (
        dropout.dropout_mask(torch.Size([n]), p, 8) != dropout.dropout_mask(torch.Size([n]), p, 7)
    ).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_and_its_gradient(dtype):
    torch.manual_seed(1)
    x = torch.randn(7, 9, dtype=dtype, requires_grad=True)
    out = dropout.dropout(x.T, 0.25)  # not contiguous
    out.sum().backward()
    kept = out != 0
    assert 0 < kept.sum() < 63
    torch.testing.assert_close(out, x.T * kept / 0.75)
    torch.testing.assert_close(x.grad, (kept / 0.75).T.to(dtype))
    torch.manual_seed(1)
    torch.randn(7, 9, dtype=dtype)
    # torch's generator draws it, and no other
    assert torch.equal(dropout.dropout(x.T, 0.25) != 0, kept)
    module = dropout.Dropout(0.25)
    assert torch.equal(module.eval()(x), x) and not torch.equal(module.train()(x), x)


MASKS = {
    "none": lambda n: None,
    "bool": lambda n: torch.ones(2, 1, n, n, dtype=torch.bool).tril() & (torch.arange(n) != 1),
    "packed": lambda n: (
        torch.ones(2, 1, n, n, dtype=torch.bool).tril()
        & (torch.arange(n)[:, None] // 200 == torch.arange(n) // 200)
    ),
    "window": lambda n: torch.ones(2, 1, n, n, dtype=torch.bool).tril().triu(-150),
    "added": lambda n: torch.zeros(2, 1, n, n).masked_fill(
        torch.ones(n, n).triu(1).bool(), torch.finfo(torch.float32).min
    ),
}


@pytest.mark.parametrize("length", [2, 33, 512, 513])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("values", [8, 5])
def test_attention_is_that_of_torch(values, mask, length):
    """On short rows by products, on longer ones by torch itself; DeepSeek's values are narrower."""
    torch.manual_seed(0)
    module = torch.nn.Module()
    widths = (8, 8, values)
    inputs = [torch.randn(2, 3, length, n, requires_grad=True) for n in widths]
    results = []
    for function in (attention.attention, SDPA):
        out, _ = function(module, *inputs, MASKS[mask](length), scaling=0.3)
        assert out.shape == (2, length, 3, values)
        rows = slice(2, None) if mask == "bool" else slice(None)  # row 1 may see only itself
        results.append([out[:, rows], *torch.autograd.grad(out[:, rows].square().sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [16, 200, 600])
def test_attention_with_dropout(length, monkeypatch):
    """As the plain formula with the same mask of what is kept."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for _ in range(3))
    kept = torch.rand(2, 3, length, length) > 0.25
    blocks = [*attention._blocks(q, attention._added(None, q))]
    mine = iter(blocks * 2)  # of the forward pass, and of the backward

    def of_block(shape, p, seed):
        rows, seen, heads = next(mine)
        return -kept[:, heads, rows, seen].to(torch.int16)

    monkeypatch.setattr(attention, "dropout_mask", of_block)
    out, _ = attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.25)
    scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    expected = ((scores.softmax(-1) * kept / 0.75) @ v).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(out.square().sum(), (q, k, v)),
        torch.autograd.grad(expected.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [16, 600])
def test_the_backward_pass_of_attention_drops_what_the_forward_pass_did(length):
    """Linear in the values: their gradient must be that of the very weights that were used."""
    torch.manual_seed(0)
    q, k = (torch.randn(2, 3, length, 8, requires_grad=True) for _ in range(2))
    v = torch.randn(2, 3, length, 8, requires_grad=True)
    out, _ = attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.5)
    (d_value,) = torch.autograd.grad(out, v, torch.ones_like(out))
    torch.testing.assert_close((d_value * v).sum(), out.sum(), rtol=1e-3, atol=1e-3)
    torch.manual_seed(1)
    first, _ = attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.5)
    second, _ = attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.5)
    torch.manual_seed(1)
    again, _ = attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.5)
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_mask_that_is_learned_gets_its_gradient():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3)]
    inputs.append(torch.randn(2, 3, 16, 16, requires_grad=True))
    results = []
    for function in (attention.attention, SDPA):
        out, _ = function(torch.nn.Module(), *inputs)
        results.append(torch.autograd.grad(out.square().sum(), inputs))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_second_derivatives_with_dropout():
    """In bf16 as in fp32, of what was dropped in both passes."""
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 16, 8) for _ in range(3)]
    second = []
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (x.to(dtype).requires_grad_() for x in inputs)
        torch.manual_seed(1)
        out, _ = attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.5)
        out = dropout.dropout(out, 0.5)
        (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), (q, k, v)))
    for exact, ours in zip(*second, strict=True):
        assert (ours - exact).norm() < 0.1 * exact.norm()


def test_keys_that_nobody_sees_are_left_out():
    q = torch.zeros(2, 3, 512, 8)
    for mask, pairs in ((None, 163_840), ("packed", 112_640), ("window", 120_320)):
        added = attention._added(MASKS[mask](512) if mask else None, q)
        blocks = [*attention._blocks(q, added)]
        sizes = [(r.stop - r.start) * (s.stop - s.start) for r, s, h in blocks if h.start == 0]
        assert sum(sizes) == pairs, mask


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("values", [16, 12])
def test_attention_of_one_token_in_bf16(values, heads, masked):
    """As near to the truth as torch's own."""
    torch.manual_seed(0)
    n_heads, n_keys = heads
    sizes = ((n_heads, 1, 16), (n_keys, 40, 16), (n_keys, 40, values))
    inputs = [torch.randn(3, *size) for size in sizes]
    mask = torch.rand(3, 1, 1, 40) > 0.3 if masked else None
    module = torch.nn.Module()
    module.num_key_value_groups = n_heads // n_keys
    exact, _ = SDPA(module, *inputs, mask)
    inputs = [x.bfloat16() for x in inputs]
    with torch.no_grad():
        ours, _ = attention.attention(module, *inputs, mask)
        theirs, _ = SDPA(module, *inputs, mask)
    assert ours.shape == theirs.shape and ours.dtype is torch.bfloat16
    error, their_error = ((x - exact).norm() / exact.norm() for x in (ours, theirs))
    assert error < 2 * their_error < 0.02


def test_the_weights_of_attention_are_not_kept():
    """What lives between the passes is of the size of the inputs."""
    q, k, v = (torch.randn(2, 12, 512, 8, requires_grad=True) for _ in range(3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        attention.attention(torch.nn.Module(), q, k, v, None, dropout=0.1)
    assert max(kept) == 512 * 512  # the mask, for all heads


def test_the_activation_is_the_same_function():
    x = torch.linspace(-9, 9, 10_001, dtype=torch.float64)
    ours = torch.nn.GELU(approximate="tanh")(x)
    theirs = transformers.activations.NewGELUActivation()(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
