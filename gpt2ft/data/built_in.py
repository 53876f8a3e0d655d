"""The text that every CPython carries: the language reference."""

from __future__ import annotations

BUILT_IN_TEXT = "python-reference"


def python_reference() -> list[str]:
    """The Python language reference, one document per topic, in alphabetical order."""
    import pydoc_data.topics

    topics: dict[str, str] = pydoc_data.topics.topics
    return [topics[name] for name in sorted(topics)]
