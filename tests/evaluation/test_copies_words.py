"""pytest tests/evaluation/test_copies_words.py"""

import pytest

from gpt2ft.evaluation.copies_words import conclusion, copies_lines

OVERLAP = {"5": 0.25, "10": 0.0, "20": None}


def summary(median, largest):
    return {"median_longest": median, "largest_longest": largest, "overlap": OVERLAP}


def sample(longest, text="\x1b[1m copied"):
    return {
        **{"prompt": "", "text": text, "longest_tokens": longest, "longest_characters": 12},
        **{"longest_text": text, "place": "a.txt line 3 character 99", "overlap": OVERLAP},
    }


@pytest.mark.parametrize(
    ("model", "human", "expected"),
    [
        ((7.5, 20), (4, 10), "repeat longer spans of the training text than held-out text does"),
        ((4, 20), (4, 10), "at least one repeats a longer span than any held-out piece does"),
        ((5, 10), (4, 10), "longer spans in the median, but none longer than held-out text"),
        ((4, 10), (4, 10), "repeat no longer spans of the training text than held-out text does"),
        ((3, 1000), None, "The longest span that the 3 samples copied has 1,000 tokens. There is"),
    ],
)
def test_the_conclusion_says_what_the_figures_do(model, human, expected):
    said = conclusion(summary(*model), summary(*human) if human else None, 3)
    assert expected in said
    if human:
        figures = f"median {model[0]:g} tokens beside {human[0]:g}, longest {model[1]} beside "
        assert said.endswith(f": {figures}{human[1]}.")
    one = conclusion(summary(*model), summary(*human) if human else None, 1)
    assert "the sample" in one.lower() and "The sample repeat " not in one


def test_all_of_it_in_lines():
    leak = {**sample(60), "longest_text": "x" * 1000}
    result = {
        "samples": [sample(2), sample(9), sample(0)],
        **{"model": summary(2, 9), "human": summary(3, 4)},
        **{"leakage": leak, "train_tokens": 12345},
    }
    text = "\n".join(copies_lines(result))
    assert text.startswith("3 samples, looked for in 12,345 tokens of training text\n")
    assert "longest span, longest, tokens                  9               4\n" in text
    assert "5-grams in the training text              25.0 %          25.0 %\n" in text
    assert "20-grams in the training text                  -               -\n" in text
    assert "9 tokens (12 characters) of sample 2, at a.txt line 3 character 99:\n" in text
    assert text.index("of sample 2") < text.index("of sample 1") and "of sample 3" not in text
    assert "warning: a span of 60 tokens of the held-out text stands in the training text" in text
    assert len(text) < 1500
    harmless = {**result, "leakage": sample(49), "human": None}
    text = "\n".join(copies_lines(harmless))
    assert "warning" not in text and "the longest span has 49 tokens" in text
    assert "no held-out text of this length to compare it with" in text
    assert "leak" not in "\n".join(copies_lines({**result, "leakage": None}))
