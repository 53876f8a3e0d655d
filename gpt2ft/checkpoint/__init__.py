"""The state of a run on disk: saved whole or not at all."""
