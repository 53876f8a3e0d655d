"""The parts of a step that libraries compute slowly, computed faster: the same results."""
