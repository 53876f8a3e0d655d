"""A page in the browser in which a model writes: its server, and its files in `page/`."""
