"""Any logits, and their probabilities worked out by hand."""

import math

import torch
from hypothesis import strategies as st


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
