"""Sphinx: python -m sphinx -W docs BUILD"""

from gpt2ft import __version__

project = "gpt2ft"
version = release = __version__
copyright = "the gpt2ft authors, MIT licence"
exclude_patterns = ["build"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
# Quotes and ellipses become typographic, "--" stays: in text it begins a flag.
smartquotes_action = "qe"
# Docstrings write `names` as plain code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("IntArray", "LossFunction", "CountFunction")}
html_theme_options = {
    "description": "The fine-tuning loop you can read in one sitting",
    "fixed_sidebar": True,
}
