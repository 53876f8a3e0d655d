"""What a model is worth: the card, samples, comparison, copies, the report."""
