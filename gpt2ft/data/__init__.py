"""Documents to tokens on disk, to samples, to batches, and the order they come in."""
