"""A text of many lines that are much alike."""

LINES = [f"line {i}: the {'quick brown fox' if i % 3 else 'lazy dog'} again\n" for i in range(300)]
