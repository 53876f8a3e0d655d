"""Faults of disk and process, and the runs that must survive them."""
