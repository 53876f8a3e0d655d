"""What the operating system and the network do to a run."""
