"""What the tests share: a byte-level tokenizer, a 2-layer GPT-2, and an offline, empty cache."""

import os
import tempfile

# Before transformers and datasets are imported: they read these then.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="gpt2ft-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import datasets
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gpt2ft.modeling import END_OF_TEXT
from gpt2ft.terminal import silence_libraries

torch.set_num_threads(1)  # these models are too small to share
silence_libraries()
datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def tokenizer():
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


@pytest.fixture
def make_model():
    """A 2-layer GPT-2 over bytes, the same weights at each call with the same arguments."""

    def make(*, dropout=0.0, n_positions=64, seed=0, **settings):
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

    return make


@pytest.fixture
def make_llama():
    """A 2-layer Llama over bytes."""

    def make(seed=0):
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            vocab_size=257,
        )
        return transformers.LlamaForCausalLM(config)

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def text_rows():
    """Forty rows of a few words, of 8 to 63 characters; none is blank."""
    text = "the quick brown fox jumps over a lazy dog while seven wizards box in the rain"
    words = text.split(" ")
    return [" ".join(words[i % 9 : i % 9 + 2 + i % 11]) for i in range(40)]


@pytest.fixture
def model_folder(tmp_path, make_model, tokenizer):
    """A folder as on the hub: the 2-layer GPT-2 and the byte tokenizer."""
    folder = tmp_path / "model"
    make_model(dropout=0.1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
