"""A byte-level tokenizer and 2-layer models over its vocabulary, made in a moment."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gpt2ft.models.loading import END_OF_TEXT


def byte_tokenizer():
    """256 bytes and an end-of-text token, id 0; no merges, so a token is a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {END_OF_TEXT: 0, **{byte: i + 1 for i, byte in enumerate(alphabet)}}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def tiny_gpt2(*, dropout=0.0, n_positions=64, seed=0, **settings):
    """A 2-layer GPT-2 over bytes, the same weights at each call with the same arguments."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        n_positions=n_positions,
        vocab_size=257,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **settings,
    )
    return transformers.GPT2LMHeadModel(config)


PASSAGE = "It was a bright cold day in April, and the clocks were striking thirteen. "


def parrot(tokenizer, text=PASSAGE, *, steps=300):
    """A 2-layer GPT-2 that has learned a text of bytes by heart: greedily, it goes on as the text
    does."""
    model = tiny_gpt2(n_positions=128, seed=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    places = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - 64, (8,), generator=places).tolist()
        batch = torch.stack([ids[start : start + 64] for start in starts])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
