"""Models and tokenizers: loaded or new, what is found out about them, what they are refused."""
