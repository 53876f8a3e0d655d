"""pytest tests/generation/test_sampling.py"""

import math
from bisect import bisect_right
from itertools import accumulate, pairwise

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft.generation.filters import filter_logits
from gpt2ft.generation.sampling import ENDED, generate_tokens, sample_token
from tests.support.apple import Apple, OnApple
from tests.support.families import FAMILIES, SMALLER
from tests.support.logits import probabilities_of, some_logits
from tests.support.settings import with_settings

generate_tokens = with_settings(generate_tokens)

BELOW_ONE = math.nextafter(1, 0)
PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17]]


def lists(steps):
    """Tokens of each prompt, without what comes after its end."""
    rows = torch.stack([step.tokens for step in steps]).T.tolist()
    return [[token for token in row if token != ENDED] for row in rows]


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


def test_draws_have_their_probabilities():
    """Chi-square over 100,000 draws, each row of the batch with a generator of its own, against
    the exact probabilities of what the filters leave."""
    torch.manual_seed(0)
    logits = torch.randn(200)
    filtered, ids = filter_logits(logits[None], temperature=0.9, top_k=60, top_p=0.95)
    expected = filtered[0].double().softmax(-1) * 100_000
    assert 20 < (expected > 0).sum() < 60
    model = FixedLogits(logits)
    counts = torch.zeros(200, dtype=torch.float64)
    settings = {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "seeds": range(1000)}
    for step in generate_tokens(model, [[1]] * 1000, max_new_tokens=100, **settings):
        counts += step.tokens.bincount(minlength=200)
    possible = expected > 0
    drawn = counts[ids[0]]
    assert counts.sum() == 100_000 == drawn[possible].sum()
    statistic = ((drawn - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    chance = torch.special.gammaincc(freedom / 2, statistic / 2)  # of a statistic as great
    assert chance > 0.001
    shifted = expected[possible].roll(1)
    wrong = ((drawn[possible] - shifted) ** 2 / shifted).sum()
    assert torch.special.gammaincc(freedom / 2, wrong / 2) < 1e-9


class FixedLogits(torch.nn.Module):
    """The same logits for every token of every text: no attention, no positions, no cache."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)
        self.eval()

    def forward(self, ids):
        return self.logits.expand(*ids.shape, -1)


def test_on_a_device_without_float64():
    """Apple's: the same is drawn as on the CPU, and comes back to the device."""
    torch.manual_seed(0)
    logits, uniform = torch.randn(50, 257) * 3, torch.rand(50, dtype=torch.float64)
    with Apple():
        with pytest.raises(TypeError, match="float64"):
            OnApple(logits).double()
        drawn = sample_token(OnApple(logits), uniform)
        assert drawn.device.type == "mps"
        assert torch.equal(drawn.values, sample_token(logits, uniform))
        with pytest.raises(ValueError, match="not finite"):
            sample_token(OnApple(logits * torch.nan), uniform)


class Plain(torch.nn.Module):
    """A model as somebody writes it by hand: ids in, logits out."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x):
        return self.model(x).logits


def test_a_plain_module_will_do(model):
    """A batch of different lengths, without mask, positions or cache: the same tokens."""
    settings = {"temperature": 0.9, "seeds": [1, 2, 3], "max_new_tokens": 40}
    assert lists(generate_tokens(Plain(model), PROMPTS, **settings)) == lists(
        generate_tokens(model.eval(), PROMPTS, **settings)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_alone_in_a_batch_and_with_model_generate(family):
    """Positions from a mask, relative ones, none at all, sliding windows, a recurrent state."""
    torch.manual_seed(0)
    sizes = {**FAMILIES[family], **SMALLER.get(family, {})}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    config = transformers.AutoConfig.for_model(family, vocab_size=257, **sizes, **special)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # else what is before a token hardly matters
            parameter.add_(torch.randn_like(parameter) * 0.2)
    settings = {"max_new_tokens": 20, "do_sample": False, "no_repeat_ngram_size": 1}
    together = lists(generate_tokens(model, PROMPTS, **settings))
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        assert lists(generate_tokens(model, [prompt], **settings)) == [tokens]
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        assert tokens == theirs[0, len(prompt) :].tolist()


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
        assert lists(generate_tokens(model, [prompt], max_new_tokens=30, do_sample=False)) == [
            expected
        ]
        assert lists(generate_tokens(model, [prompt], max_new_tokens=30, temperature=0)) == [
            expected
        ]


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
    ours = generate_tokens(
        model, [[5, 6, 7]], max_new_tokens=40, do_sample=False, repetition_penalty=1.7
    )
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
    together = lists(generate_tokens(model, PROMPTS, max_new_tokens=100, **settings))
    for row, prompt in enumerate(PROMPTS):
        own = dict(settings)
        if "seeds" in own:
            own["seeds"] = [own["seeds"][row]]
        assert lists(generate_tokens(model, [prompt], max_new_tokens=100, **own)) == [together[row]]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["make_model", "make_llama"])
def test_with_and_without_cache(kind, settings, request):
    model = request.getfixturevalue(kind)().eval()
    cached = lists(generate_tokens(model, PROMPTS, max_new_tokens=100, **settings))
    assert cached == lists(
        generate_tokens(model, PROMPTS, max_new_tokens=100, use_cache=False, **settings)
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
        assert lists(generate_tokens(model, [prompt], max_new_tokens=40, do_sample=False)) == [
            expected
        ]


def test_seeds(model):
    model.eval()

    def text(seed):
        return lists(generate_tokens(model, [[5]], max_new_tokens=20, seeds=seed and [seed]))

    assert text(7) == text(7) != text(8)
    assert text(None) != text(None)


def test_drawing_leaves_the_global_generator_alone(model):
    model.eval()
    before = torch.get_rng_state()
    list(generate_tokens(model, [[5]], max_new_tokens=5, seeds=[1]))
    assert torch.equal(torch.get_rng_state(), before)


def test_ends_at_end_of_text_each_on_its_own(model):
    """End-of-text is whatever the first prompt's third token is; others go on until theirs."""
    model.eval()
    free = lists(
        generate_tokens(model, PROMPTS, max_new_tokens=50, temperature=3.0, seeds=[1, 2, 3])
    )
    end = free[0][2]
    steps = [
        step.tokens
        for step in generate_tokens(
            model, PROMPTS, max_new_tokens=50, temperature=3.0, seeds=[1, 2, 3], eos_token_id=end
        )
    ]
    for row, tokens in zip(torch.stack(steps).T.tolist(), free, strict=True):
        stop = tokens.index(end) + 1 if end in tokens else 50
        assert row == tokens[:stop] + [ENDED] * (len(steps) - stop)
    assert torch.stack(steps)[:, 0].tolist()[2:4] in ([end], [end, ENDED])


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="training mode"):
        next(generate_tokens(model.train(), [[1]], max_new_tokens=1))
    with pytest.raises(ValueError, match="no tokens"):
        next(generate_tokens(model.eval(), [[1], []], max_new_tokens=1))


def test_log_probabilities_are_the_model_s_own(model):
    """Those of Hugging Face's loss over what was drawn, whatever was filtered."""
    settings = {"temperature": 0.5, "top_k": 9, "repetition_penalty": 1.3, "seeds": [1, 2, 3]}
    steps = list(generate_tokens(model.eval(), PROMPTS, max_new_tokens=12, **settings))
    ours = torch.stack([step.log_probabilities for step in steps]).sum(0)
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, lists(steps), strict=True)):
        ids = torch.tensor([prompt + tokens])
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < len(prompt), -100)
        with torch.no_grad():
            loss = model(ids, labels=labels).loss
        assert math.isclose(ours[row], -loss * len(tokens), rel_tol=1e-5)


def test_a_caller_may_end_a_text(model):
    """The others go on as they would have."""
    free = lists(generate_tokens(model.eval(), PROMPTS, max_new_tokens=20, seeds=[1, 2, 3]))
    steps = []
    for step in generate_tokens(model, PROMPTS, max_new_tokens=20, seeds=[1, 2, 3]):
        steps.append(step)
        step.ended[1] |= len(steps) == 5
    assert lists(steps) == [free[0], free[1][:5], free[2]]


def test_a_text_that_ended_long_ago_does_not_outgrow_the_window(model):
    """Sixty tokens and done, beside one that goes on for fifty: its position is not past 64."""
    long, short = list(range(1, 61)), [5]
    steps = []
    for step in generate_tokens(model.eval(), [long, short], max_new_tokens=50, seeds=[1, 2]):
        steps.append(step)
        step.ended[0] = True
    alone = lists(generate_tokens(model, [short], max_new_tokens=50, seeds=[2]))
    assert lists(steps)[1:] == alone


def test_token_0_is_an_ordinary_token(model):
    """A mask made from ids would hide it."""
    model.eval()
    ours = lists(generate_tokens(model, [[0, 0, 5], [0]], max_new_tokens=5, do_sample=False))
    for prompt, tokens in zip(([0, 0, 5], [0]), ours, strict=True):
        ids = torch.tensor([prompt])
        for token in tokens:
            with torch.no_grad():
                assert int(model(ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.parametrize("options", [{"no_repeat_ngram_size": 2}, {"bad_words_ids": [[9], [3, 4]]}])
def test_with_bans_greedy_is_that_of_transformers(options, model):
    """Up to the end of the window, where transformers would stop."""
    model.eval()
    prompt = PROMPTS[2]
    theirs = model.generate(
        torch.tensor([prompt]), max_new_tokens=50, do_sample=False, eos_token_id=None, **options
    )
    (ours,) = lists(generate_tokens(model, [prompt], max_new_tokens=50, temperature=0, **options))
    assert ours == theirs[0, len(prompt) :].tolist()


def test_no_ngram_stands_twice_even_beyond_the_window(model):
    prompt = PROMPTS[0]
    settings = {"max_new_tokens": 150, "no_repeat_ngram_size": 2, "temperature": 0}
    (new,) = lists(generate_tokens(model.eval(), [prompt], **settings))
    text = [*prompt, *new]
    pairs = list(pairwise(text))
    assert len(text) > 2 * 64 and len(set(pairs)) == len(pairs)
    (free,) = lists(generate_tokens(model, [prompt], max_new_tokens=150, temperature=0))
    pairs = list(pairwise(free))
    assert len(set(pairs)) < len(pairs)  # without it, they do


def test_if_everything_is_banned_it_says_so(model):
    banned = [[token] for token in range(257)]
    with pytest.raises(ValueError, match="every token is banned"):
        next(generate_tokens(model.eval(), [[5]], max_new_tokens=1, bad_words_ids=banned))
