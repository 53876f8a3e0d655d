"""pytest tests/models/test_loading.py"""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gpt2ft import load_model, load_tokenizer, new_model
from gpt2ft.models.loading import parse_overrides, train_tokenizer
from gpt2ft.models.names import BUILT_IN_FOLDER, BUILT_IN_MODEL
from gpt2ft.models.probe import check_fit, window
from gpt2ft.system.hub import HubUnavailableError
from tests.support.families import small_config


def test_loads_a_folder_in_fp32(model_folder, make_model):
    model = load_model(str(model_folder))
    assert model.dtype is torch.float32 and not model.training
    for a, b in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_weights_become_fp32(tmp_path, make_model):
    make_model().half().save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).dtype is torch.float32


def test_the_hubs_own_form_of_gpt2(tmp_path, make_model):
    """gpt2 on the hub has names without `transformer.`, and buffers that are no parameters."""
    make_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for layer in (0, 1):
        renamed[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = load_model(str(tmp_path))
    for a, b in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(a, b)


def test_missing_tensors_are_named(tmp_path, make_model):
    make_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks tensors, transformer\.h\.1\.mlp\.c_fc\.weight"):
        load_model(str(tmp_path))


def test_misshapen_tensors_are_named(tmp_path, make_model):
    make_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.wpe.weight"] = torch.zeros(65, 32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another shape, transformer\.wpe\.weight"):
        load_model(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path, make_model):
    model = make_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_model(str(tmp_path))


def test_what_is_no_causal_language_model(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ViTConfig"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(ValueError, match="nonsense"):
        load_model(str(tmp_path))


def test_a_name_that_only_the_hub_could_know():
    message = "gpt2 is not on this machine, and it cannot be downloaded: no connection to the hub"
    for load in (load_model, load_tokenizer):
        with pytest.raises(HubUnavailableError, match=message):
            load("gpt2")


@pytest.mark.parametrize("name", ["./model", "../model", "~/model", "/no/such/model", "a/b/c"])
def test_a_path_is_not_looked_for_on_the_hub(name):
    for load in (load_model, load_tokenizer):
        with pytest.raises(FileNotFoundError, match=r"^no folder /.*"):
            load(name)


def test_a_hub_that_does_not_answer_costs_seconds(tmp_path, make_model, tokenizer):
    """A program that imports the library, without internet: its libraries try again for minutes.

    What is in the cache is loaded from there.
    """
    cached = tmp_path / "hub" / "models--owner--cached"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    make_model().save_pretrained(cached / "snapshots" / ("a" * 40))
    tokenizer.save_pretrained(cached / "snapshots" / ("a" * 40))
    program = (
        "import time, gpt2ft, transformers\n"
        "start = time.monotonic()\n"
        "for load in (gpt2ft.load_model, gpt2ft.load_tokenizer):\n"
        "    print(type(load('owner/cached')).__name__)\n"
        "    try: load('gpt2')\n"
        "    except ConnectionError as error: print(error)\n"
        "assert time.monotonic() - start < 30\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "GPT2LMHeadModel" and "Tokenizer" in lines[2]
    assert all(line.startswith("gpt2 is not on this machine") for line in lines[1::2])


def test_end_of_text_pads_where_nothing_else_does(tmp_path, tokenizer):
    folder = tmp_path / "tokenizer"
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(str(folder))
    assert loaded.pad_token_id == loaded.eos_token_id == 0


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3_5", "phi3", "mistral", "gpt2"])
def test_a_tokenizer_is_loaded_as_it_was_saved(model_type, tmp_path):
    """Whatever type the model beside it has: `AutoTokenizer` would cut these words as Qwen's."""
    text = "It's 1984, isn't it?\n\n  at 12:30 -- x_y=3.14\r\n"
    for tokenizer in (train_tokenizer([text] * 9, vocab_size=300), load_tokenizer(BUILT_IN_MODEL)):
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        loaded = load_tokenizer(str(tmp_path))
        assert type(loaded) is type(tokenizer) and len(loaded) == len(tokenizer)
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bloom", "opt", "gpt_neox", "codegen"])
def test_new_models_of_several_kinds(model_type, tokenizer):
    sizes = {
        "gpt2": "n_layer=2,n_embd=16,n_head=2",
        "opt": "num_hidden_layers=2,hidden_size=16,ffn_dim=16,num_attention_heads=2,"
        "word_embed_proj_dim=16",
        "bloom": "n_layer=2,hidden_size=16,n_head=2",
        "codegen": "n_layer=2,n_embd=16,n_head=4,rotary_dim=4",
    }.get(
        model_type, "num_hidden_layers=2,hidden_size=16,intermediate_size=16,num_attention_heads=2"
    )
    model = new_model(model_type, tokenizer=tokenizer, overrides=sizes)
    assert model.get_input_embeddings().weight.shape == (257, 16)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    check_fit(model, tokenizer, 32)
    assert model(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 257)


def test_dropout_is_set_whatever_it_is_called(tokenizer, model_folder):
    model = load_model(str(model_folder), dropout=0.25)
    probabilities = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert probabilities == {0.25} and model.config.attn_pdrop == 0.25
    model.config.resid_pdrop = 0  # as some write it
    model.save_pretrained(model_folder)
    assert load_model(str(model_folder), dropout=0.125).config.resid_pdrop == 0.125
    llama = new_model(
        "llama",
        tokenizer=tokenizer,
        dropout=0.5,
        overrides="num_hidden_layers=1,hidden_size=16,intermediate_size=16,num_attention_heads=2",
    )
    assert llama.config.attention_dropout == 0.5
    sizes = "num_hidden_layers=1,hidden_size=8"
    with pytest.raises(ValueError, match="mamba has no dropout, leave out --dropout"):
        new_model("mamba", tokenizer=tokenizer, dropout=0.5, overrides=sizes)
    assert new_model("mamba", tokenizer=tokenizer, dropout=0.0, overrides=sizes)


def test_what_new_models_cannot_be(tokenizer):
    with pytest.raises(ValueError, match="type nonsense"):
        new_model("nonsense", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="n_layers is no setting of gpt2"):
        new_model("gpt2", tokenizer=tokenizer, overrides="n_layers=4")
    with pytest.raises(ValueError, match="n_layer is no setting, write name=value"):
        parse_overrides("n_layer")
    assert parse_overrides("a=4,b=0.1,c=gelu,d=true") == {"a": 4, "b": 0.1, "c": "gelu", "d": True}


def test_a_trained_tokenizer_is_byte_level_and_lossless():
    texts = ["the cat sat on the mat", "the dog sat on the log"] * 20
    bpe = train_tokenizer(texts, vocab_size=300)
    assert 257 < len(bpe) <= 300
    assert bpe.eos_token_id == bpe.pad_token_id == 0
    for text in ("the cat", "ünï — \t\n\n never seen 🙂"):
        assert bpe.decode(bpe(text)["input_ids"]) == text
    assert len(bpe("the cat sat")["input_ids"]) < len("the cat sat")


CARD = (BUILT_IN_FOLDER / "README.md").read_text(encoding="utf-8")
SENTENCES = (
    "It was a fine morning, and they went for a walk.",
    "She could not bear to think of it any longer.",
    "The captain stood upon the deck and looked at the sea.",
    "He had never been so happy in all his life.",
)


def test_the_built_in_model_is_what_its_card_says():
    folder = BUILT_IN_FOLDER
    weights = folder / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in CARD
    assert {x.dtype for x in load_file(weights).values()} == {torch.bfloat16}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 6_000_000
    model, tokenizer = load_model(BUILT_IN_MODEL), load_tokenizer(BUILT_IN_MODEL)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in CARD
    assert model.dtype == torch.float32 and window(model) >= 256
    assert len(tokenizer) == model.config.vocab_size and 2048 <= len(tokenizer) <= 8192
    assert f"{len(tokenizer):,} entries" in CARD


def test_the_card_has_the_settings_that_make_the_model_again():
    from benchmarks.pretrain_mini import CHOSEN

    told = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|$", CARD, flags=re.MULTILINE))
    assert told == {name: str(value) for name, value in CHOSEN.items()}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_built_in_model_knows_english(sentence):
    """It finds a sentence far more probable than its words in the opposite order."""
    model, tokenizer = load_model(BUILT_IN_MODEL), load_tokenizer(BUILT_IN_MODEL)

    def loss(text):
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            return model(ids, labels=ids).loss.item()

    assert loss(sentence) < loss(" ".join(reversed(sentence.split()))) - 1


def test_a_folder_of_the_built_in_models_name_goes_first(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_folder.rename(tmp_path / BUILT_IN_MODEL)
    own = load_model(BUILT_IN_MODEL).config.vocab_size
    assert own == load_model(str(tmp_path / BUILT_IN_MODEL)).config.vocab_size
    monkeypatch.chdir("/")
    assert load_model(BUILT_IN_MODEL).config.vocab_size != own


def test_what_is_loaded_lies_in_memory_as_what_is_new(model_folder):
    """Elsewhere some kernels sum in another order: a resumed run would part from a straight one."""
    model = load_model(str(model_folder))
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.data_ptr() % 64 for tensor in tensors} == {0}
    assert all(tensor.is_contiguous() for tensor in tensors)
    assert model.lm_head.weight is model.transformer.wte.weight  # tied as before


def test_what_a_new_model_has_frozen_is_frozen_when_it_is_loaded(tmp_path):
    """Marian's positions are a table of sines."""
    new = transformers.AutoModelForCausalLM.from_config(small_config("marian"))
    new.save_pretrained(tmp_path)
    frozen = [name for name, p in new.named_parameters() if not p.requires_grad]
    assert frozen == ["model.decoder.embed_positions.weight"]
    loaded = load_model(str(tmp_path))
    assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == frozen
