"""One run from a configuration: built, trained, observed, saved."""
