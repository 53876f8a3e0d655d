"""Observing a model leaves no trace: pytest tests/test_guards.py"""

import contextlib

import pytest
import torch

from gpt2ft.guards import undisturbed


def test_the_random_state_of_an_apple_device_is_put_back(monkeypatch):
    """There is no such device here: the calls that torch has for it are replaced."""
    generator = [torch.tensor(1)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: generator[0].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: generator.__setitem__(0, state))
    for fails in (False, True):
        expected = pytest.raises(RuntimeError) if fails else contextlib.nullcontext()
        with expected, undisturbed(torch.nn.Linear(1, 1)):
            generator[0] = torch.tensor(2)  # something was drawn
            if fails:
                raise RuntimeError
        assert generator == [1]
