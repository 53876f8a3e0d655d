"""pytest tests/test_sampling.py"""

import math
from bisect import bisect_right
from itertools import accumulate, compress

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2ft import stream
from gpt2ft.sampling import (
    ENDED,
    GREEDY_BELOW,
    TextDecoder,
    encode_prompt,
    filter_logits,
    generate,
    penalize_repetition,
    sample_token,
)

BELOW_ONE = math.nextafter(1, 0)
PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17]]


def lists(steps):
    """Tokens of each prompt, without what comes after its end."""
    rows = torch.stack(list(steps)).T.tolist()
    return [[token for token in row if token != ENDED] for row in rows]


def logits_to_try():
    """Random, with ties, all equal, one far above the rest, and some already out."""
    draw = torch.Generator().manual_seed(0)
    random = torch.randn(64, 50, generator=draw) * 4
    ties = torch.randint(0, 4, (16, 50), generator=draw).float()
    single = torch.zeros(1, 50)
    single[0, 7] = 100.0
    out = random[:8].masked_fill(random[:8] < 3, -torch.inf)
    out[:, 0] = 1.0
    return torch.cat([random, ties, torch.zeros(1, 50), single, out])


@st.composite
def some_logits(draw):
    """Any logits (B, V): few different values, so that ties are common, or huge ones; some out."""
    width = draw(st.integers(1, 9))
    kinds = [st.integers(-2, 2).map(float), st.floats(-1e4, 1e4, width=32), st.just(-math.inf)]
    values = st.one_of(draw(st.lists(st.sampled_from(kinds), min_size=1)))
    row = st.lists(values, min_size=width, max_size=width).filter(lambda row: max(row) > -math.inf)
    return torch.tensor(draw(st.lists(row, min_size=1, max_size=3)))


def probabilities_of(row):
    """Softmax in plain Python."""
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


def kept(logits):
    return (logits > -math.inf).tolist()


TEMPERATURES = st.sampled_from([GREEDY_BELOW, 0.01, 0.7, 1.0, 3.0, 1e6])
TOP_K = st.integers(0, 10)
TOP_P = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.25, 0.5, 0.75])


@given(some_logits(), TEMPERATURES, TOP_K, TOP_P)
def test_any_filters_are_those_of_transformers_and_leave_a_token(logits, temperature, top_k, top_p):
    """At least the likeliest one, whatever the settings; what stays is not changed."""
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    filtered = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    assert torch.equal(filtered, expected)
    assert torch.equal(filtered.max(-1).values, (logits / temperature).max(-1).values)


@given(some_logits(), st.integers(1, 10))
def test_top_k_by_counting(logits, top_k):
    """A token stays if fewer than k are likelier: of equals all or none."""
    expected = [
        [token > -math.inf and sum(other > token for other in row) < top_k for token in row]
        for row in logits.tolist()
    ]
    assert kept(filter_logits(logits, top_k=top_k)) == expected


@given(some_logits(), st.data())
def test_top_p_by_adding_up(logits, data):
    """What stays has probability p, without its least likely token it has not, and nothing that
    is left out is likelier."""
    probabilities = [probabilities_of(row) for row in logits.tolist()]
    sums = list(accumulate(sorted(probabilities[0], reverse=True)))
    near_a_sum = st.sampled_from(sums).flatmap(lambda p: st.sampled_from([p - 1e-4, p + 1e-4]))
    top_p = min(data.draw(TOP_P | near_a_sum), 1.0)
    masks = kept(filter_logits(logits, top_p=top_p))
    for row, mask in zip(probabilities, masks, strict=True):
        inside = sorted(compress(row, mask))
        outside = compress(row, [not stays for stays in mask])
        assert sum(inside) > top_p - 1e-5
        assert sum(inside[1:]) < top_p + 1e-5
        assert max(outside, default=0) <= inside[0]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.5])
def test_temperature_is_that_of_transformers(temperature):
    logits = logits_to_try()
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    assert torch.equal(filter_logits(logits, temperature=temperature), expected)


@pytest.mark.parametrize("top_k", [1, 2, 7, 49, 50, 1000])
def test_top_k_is_that_of_transformers(top_k):
    logits = logits_to_try()
    assert torch.equal(filter_logits(logits, top_k=top_k), TopKLogitsWarper(top_k)(None, logits))


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.95, 0.9999])
def test_top_p_is_that_of_transformers(top_p):
    logits = logits_to_try()
    assert torch.equal(filter_logits(logits, top_p=top_p), TopPLogitsWarper(top_p)(None, logits))


def test_all_together_in_the_order_of_transformers():
    logits = logits_to_try()
    expected = logits
    for warp in (TemperatureLogitsWarper(0.6), TopKLogitsWarper(9), TopPLogitsWarper(0.8)):
        expected = warp(None, expected)
    assert torch.equal(filter_logits(logits, temperature=0.6, top_k=9, top_p=0.8), expected)
    assert torch.equal(filter_logits(logits), logits)  # and nothing by default


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty):
    logits = logits_to_try()[:64]
    ids = torch.randint(0, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(penalize_repetition(logits, seen, penalty), expected)


@given(some_logits(), st.floats(0.1, 10), st.data())
def test_any_penalty_is_that_of_transformers(logits, penalty, data):
    """Also of a token that was seen twice, has logit 0, or is out."""
    n_rows, n_tokens = logits.shape
    text = st.lists(st.integers(0, n_tokens - 1), min_size=5, max_size=5)
    ids = torch.tensor(data.draw(st.lists(text, min_size=n_rows, max_size=n_rows)))
    seen = torch.tensor([[token in row for token in range(n_tokens)] for row in ids.tolist()])
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(penalize_repetition(logits, seen, penalty), expected)


@given(some_logits(), st.data())
def test_any_draw_is_by_the_inverse_of_the_distribution(logits, data):
    """Against sums in plain Python: at a step of theirs, where rounding decides, either side."""
    expected, uniform = [], []
    for row in logits.tolist():
        probabilities = probabilities_of(row)
        steps = list(accumulate(probabilities))
        off_a_step = st.sampled_from([-1e-10, 0.0, 1e-10])
        near_a_step = st.tuples(st.sampled_from([0.0, *steps]), off_a_step).map(sum)
        number = data.draw(st.floats(0, 1, exclude_max=True) | near_a_step)
        number = min(max(number, 0.0), BELOW_ONE)
        low, high = (bisect_right(steps, number + error) for error in (-1e-12, 1e-12))
        expected.append({i for i, p in enumerate(probabilities) if p > 0 and low <= i <= high})
        uniform.append(number)
    drawn = sample_token(logits, torch.tensor(uniform, dtype=torch.float64)).tolist()
    for token, possible in zip(drawn, expected, strict=True):
        assert token in possible


def test_the_greatest_number_draws_the_last_token():
    """Not the one behind it, where rounding keeps the sum of equal probabilities under 1."""
    for width in range(1, 50):
        number = torch.tensor([BELOW_ONE], dtype=torch.float64)
        assert sample_token(torch.zeros(1, width), number).tolist() == [width - 1]


def test_a_draw_follows_the_distribution():
    """An even grid of numbers must hit each token in proportion to its probability."""
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0, -torch.inf]])
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = sample_token(logits.expand(10_000, -1), grid)
    share = torch.bincount(drawn, minlength=5) / 10_000
    torch.testing.assert_close(share, logits[0].softmax(-1), rtol=0, atol=2e-4)
    assert share[1] == share[4] == 0


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    edges = torch.tensor([0.0, 0.5 - 2**-53, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert sample_token(logits.expand(4, -1), edges).tolist() == [1, 1, 3, 3]


def test_damaged_weights_are_an_error():
    logits = torch.tensor([[0.0, torch.nan]])
    with pytest.raises(ValueError, match="not finite"):
        sample_token(logits, torch.tensor([0.5]))


@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_greedy_is_model_generate(kind, request):
    model = request.getfixturevalue(kind)().eval()
    for prompt in PROMPTS:
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=30,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert lists(generate(model, [prompt], max_new_tokens=30, do_sample=False)) == [expected]
        assert lists(generate(model, [prompt], max_new_tokens=30, temperature=0)) == [expected]


def test_greedy_with_a_penalty_is_model_generate(model):
    expected = (
        model.eval()
        .generate(
            torch.tensor([[5, 6, 7]]),
            attention_mask=torch.ones(1, 3, dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            repetition_penalty=1.7,
            eos_token_id=None,
            pad_token_id=0,
        )[0, 3:]
        .tolist()
    )
    ours = generate(model, [[5, 6, 7]], max_new_tokens=40, do_sample=False, repetition_penalty=1.7)
    assert lists(ours) == [expected]
    assert len(set(expected)) > 3


SETTINGS = [
    {"do_sample": False},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "seeds": [1, 2, 3]},
    {"temperature": 1.5, "repetition_penalty": 1.4, "seeds": [1, 1, 1]},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_a_batch_gives_what_each_prompt_gives_alone(kind, settings, request):
    """Also where some outgrow the window of 64 tokens before others."""
    model = request.getfixturevalue(kind)().eval()
    together = lists(generate(model, PROMPTS, max_new_tokens=100, **settings))
    for row, prompt in enumerate(PROMPTS):
        own = dict(settings)
        if "seeds" in own:
            own["seeds"] = [own["seeds"][row]]
        assert lists(generate(model, [prompt], max_new_tokens=100, **own)) == [together[row]]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_with_and_without_cache(kind, settings, request):
    model = request.getfixturevalue(kind)().eval()
    cached = lists(generate(model, PROMPTS, max_new_tokens=100, **settings))
    assert cached == lists(
        generate(model, PROMPTS, max_new_tokens=100, use_cache=False, **settings)
    )
    assert len(cached[0]) == 100


def test_beyond_the_window_against_a_brute_force(make_model):
    """Sixteen positions, crop to eight when seventeen would be needed: every step from scratch."""
    model = make_model(n_positions=16).eval()
    for prompt in ([3], list(range(1, 17)), list(range(1, 41))):
        context, expected = list(prompt), []
        for _ in range(40):
            if len(context) > 16:
                context = context[-8:]
            with torch.no_grad():
                token = int(model(torch.tensor([context])).logits[0, -1].argmax())
            context.append(token)
            expected.append(token)
        assert lists(generate(model, [prompt], max_new_tokens=40, do_sample=False)) == [expected]


def test_seeds(model):
    model.eval()

    def text(seed):
        return lists(generate(model, [[5]], max_new_tokens=20, seeds=seed and [seed]))

    assert text(7) == text(7) != text(8)
    assert text(None) != text(None)


def test_drawing_leaves_the_global_generator_alone(model):
    model.eval()
    before = torch.get_rng_state()
    list(generate(model, [[5]], max_new_tokens=5, seeds=[1]))
    assert torch.equal(torch.get_rng_state(), before)


def test_ends_at_end_of_text_each_on_its_own(model):
    """End-of-text is whatever the first prompt's third token is; others go on until theirs."""
    model.eval()
    free = lists(generate(model, PROMPTS, max_new_tokens=50, temperature=3.0, seeds=[1, 2, 3]))
    end = free[0][2]
    steps = list(
        generate(
            model, PROMPTS, max_new_tokens=50, temperature=3.0, seeds=[1, 2, 3], eos_token_id=end
        )
    )
    for row, tokens in zip(torch.stack(steps).T.tolist(), free, strict=True):
        stop = tokens.index(end) + 1 if end in tokens else 50
        assert row == tokens[:stop] + [ENDED] * (len(steps) - stop)
    assert torch.stack(steps)[:, 0].tolist()[2:4] in ([end], [end, ENDED])


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="training mode"):
        next(generate(model.train(), [[1]], max_new_tokens=1))
    with pytest.raises(ValueError, match="no tokens"):
        next(generate(model.eval(), [[1], []], max_new_tokens=1))


def test_token_0_is_an_ordinary_token(model):
    """A mask made from ids would hide it."""
    model.eval()
    ours = lists(generate(model, [[0, 0, 5], [0]], max_new_tokens=5, do_sample=False))
    for prompt, tokens in zip(([0, 0, 5], [0]), ours, strict=True):
        ids = torch.tensor([prompt])
        for token in tokens:
            with torch.no_grad():
                assert int(model(ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_characters_are_never_split(tokenizer):
    """One token a byte: nothing comes until a character is whole."""
    text = "naïve — 🙂 done"
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(pieces) == text and "�" not in "".join(pieces)
    assert pieces.count("") == len(text.encode()) - len(text)
    assert decoder.flush() == ""


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer):
    decoder = TextDecoder(tokenizer)
    for token in tokenizer("a🙂")["input_ids"][:-1]:
        decoder.push(token)
    assert decoder.flush() == "�"


def test_spaces_between_words_survive_a_sentencepiece_tokenizer():
    """Llama's decoder strips the space before the first token; the prompt's end prevents it."""
    import tokenizers
    from tokenizers import decoders, models

    vocab = {"<unk>": 0, "▁once": 1, "▁upon": 2, "▁a": 3, "▁time": 4}
    words = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.decoder = decoders.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    decoder = TextDecoder(tokenizer, [1, 2])
    assert [decoder.push(token) for token in (3, 4)] == [" a", " time"]


def test_stream_is_the_text_of_generate(model, tokenizer):
    model.eval()
    settings = {"max_new_tokens": 40, "temperature": 0.9, "top_k": 40}
    ids = tokenizer("a cat")["input_ids"]
    tokens = lists(generate(model, [ids], seeds=[3], eos_token_id=0, **settings))[0]
    text = "".join(stream(model, tokenizer, "a cat", seed=3, **settings))
    assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(text) > 10


def test_an_empty_prompt_starts_from_end_of_text(tokenizer):
    assert encode_prompt(tokenizer, "") == [0]
    assert encode_prompt(tokenizer, "a") == tokenizer("a")["input_ids"]
