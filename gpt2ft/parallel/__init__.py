"""Many processes train one model: which of them this is, what they agree on, and their sums."""
