"""Tests of gpt2ft/parallel."""
