"""Documents and rows of any kind, and the token stores made of them."""

from itertools import chain

import pyarrow as pa
from datasets import Dataset
from hypothesis import settings
from hypothesis import strategies as st

from gpt2ft.data.token_store import FEATURES, TokenStore, described
from gpt2ft.models.loading import END_OF_TEXT

END = 0

# Documents of any words, null and blank ones among them, and some with end of text written in them.
WORDS = st.lists(st.sampled_from(["a", "bcd ", "é", " ", "\n", END_OF_TEXT]), max_size=8)
DOCUMENTS = st.lists(st.none() | WORDS.map("".join), max_size=7)
ROWS = st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=6)
few = settings(max_examples=50)  # to make a store takes milliseconds


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def of_rows(*chunks):
    """A store of token ids, row by row, in as many record batches as there are chunks."""
    schema = FEATURES.arrow_schema
    batches = [
        pa.RecordBatch.from_pylist([described(row, True, END) for row in chunk], schema)
        for chunk in chunks
    ]
    table = Dataset(pa.Table.from_batches(batches, schema))
    return TokenStore(table, has_prefix=False, apart=True)


def joined(runs):
    return list(chain.from_iterable(runs))
