"""Models and tokenizers: loading, making new ones, probing them, refusing what is unsafe."""
