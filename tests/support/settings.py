"""Sampling settings given one by one, as tests vary them."""

import dataclasses
import functools

from gpt2ft import Sampling

NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
NAMES = {field.name for field in dataclasses.fields(Sampling)}


def sampling(**settings):
    """What is not given leaves the model's own distribution as it is."""
    return Sampling(**{**NEUTRAL, **settings})


def with_settings(function):
    """A function that takes a `Sampling` last of its positions, given its fields by name."""

    @functools.wraps(function)
    def call(*args, **options):
        given = {name: options.pop(name) for name in list(options) if name in NAMES}
        return function(*args, sampling(**given), **options)

    return call
