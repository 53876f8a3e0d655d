"""What the tests share: a byte-level tokenizer, a 2-layer GPT-2, and an offline, empty cache."""

import json
import os
import tempfile

# Before transformers and datasets are imported: they read these then.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="gpt2ft-tests-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(os.environ["HF_HOME"], "hypothesis")

import datasets
import hypothesis
import pytest
import torch
import transformers
from tokenizers import processors

from gpt2ft.system.terminal import silence_libraries
from tests.support.tiny import byte_tokenizer, tiny_gpt2

torch.set_num_threads(1)  # these models are too small to share
silence_libraries()
datasets.disable_progress_bars()

# The same examples in every run, and nothing remembered: what fails once fails everywhere.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session")
def tokenizer():
    """256 bytes and an end-of-text token, id 0; no merges, so a token is a byte."""
    return byte_tokenizer()


@pytest.fixture
def make_model():
    """A 2-layer GPT-2 over bytes, the same weights at each call with the same arguments."""
    return tiny_gpt2


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
def documents(text_rows):
    return datasets.Dataset.from_dict({"text": text_rows})


@pytest.fixture(scope="session")
def with_beginning(tokenizer):
    """The byte tokenizer, but it puts a token of its own, id 1, before each text, as Llama's."""
    backend = tokenizer.backend_tokenizer
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(backend).from_str(backend.to_str()),
        bos_token="!",
        eos_token="<|endoftext|>",
    )
    begin = other.convert_tokens_to_ids("!")
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="! $A", special_tokens=[("!", begin)]
    )
    return other


@pytest.fixture
def model_folder(tmp_path, make_model, tokenizer):
    """A folder as on the hub: the 2-layer GPT-2 and the byte tokenizer."""
    folder = tmp_path / "model"
    make_model(dropout=0.1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def endless(tmp_path, make_model, tokenizer):
    """A model whose texts never end."""
    model = make_model(seed=3)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "endless")
    tokenizer.save_pretrained(tmp_path / "endless")
    path = tmp_path / "endless" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in ("eos_token", "bos_token", "pad_token"):
        del settings[name]
    path.write_text(json.dumps(settings))
    return str(tmp_path / "endless")
