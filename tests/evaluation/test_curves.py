"""pytest tests/evaluation/test_curves.py"""

import pytest

from gpt2ft.evaluation.curves import MOST_POINTS, curves


def steps(n):
    return [
        {
            **{"step": s, "loss": 5.0 - s / n, "learning_rate": 0.1, "grad_norm": 1.0},
            **{"n_targets": 100, "skipped": s == 3, "seconds": 0.5},
        }
        for s in range(1, n + 1)
    ]


def evaluations(*losses):
    return [
        {"step": 10 * i, "eval_loss": loss, "eval_perplexity": 1.0} for i, loss in enumerate(losses)
    ]


def test_each_step_where_they_are_few():
    found = curves([*steps(5), *evaluations(3.0, 2.0)])
    assert found.together == 1 and found.steps["step"] == [1, 2, 3, 4, 5]
    assert found.steps["tokens"] == [100, 200, 300, 400, 500]
    assert found.steps["tokens_per_second"] == [200.0] * 5
    assert found.skipped == [3] and found.evaluations["loss"] == [3.0, 2.0]
    assert found.evaluations["bits_per_byte"] == [None, None]  # an older version had none


@pytest.mark.parametrize("n", [MOST_POINTS, MOST_POINTS + 1, 123_456])
def test_many_steps_are_put_together_and_none_is_lost(n):
    found = curves(steps(n))
    assert len(found.steps["step"]) <= MOST_POINTS and found.steps["step"][-1] == n
    assert found.steps["tokens"][-1] == 100 * n
    first = found.together
    mean = sum(5.0 - s / n for s in range(1, first + 1)) / first
    assert found.steps["loss"][0] == pytest.approx(mean, rel=1e-4)
    assert found.steps["lowest"][0] <= found.steps["loss"][0] <= found.steps["highest"][0]


def test_what_is_not_finite_or_missing():
    records = steps(3)
    records[0]["loss"] = records[0]["grad_norm"] = None
    del records[1]["seconds"]
    found = curves(records)
    assert found.steps["loss"][0] is None and found.steps["grad_norm"][0] is None
    assert found.steps["tokens_per_second"][1] is None
    assert curves([]).best is None and not curves([]).overfits


@pytest.mark.parametrize(
    ("losses", "best", "overfits"),
    [
        ((4.0, 3.0, 2.0), 2, False),
        ((4.0, 2.0, 3.0), 1, True),
        ((4.0, 2.0, 2.005), 1, False),
        ((2.0, 3.0, 4.0), 0, False),  # it never got better: that is another sentence
        ((4.0, None, 3.0), 2, False),
        ((4.0, 2.0, None), 1, False),
    ],
)
def test_overfitting(losses, best, overfits):
    found = curves(evaluations(*losses))
    assert (found.best, found.overfits) == (best, overfits)


def test_a_step_that_was_done_again_counts_once():
    found = curves([*steps(4), *steps(3)])
    assert found.steps["step"] == [1, 2, 3, 4]
