"""pytest tests/models/test_gguf.py

What is written is read by transformers, which knows nothing of what wrote it.
"""

import sys

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from gpt2ft.models.gguf import ARCHITECTURES, check_gguf, check_written, write_gguf
from gpt2ft.models.gguf_tokenizer import LLAMA3, QWEN2
from gpt2ft.models.loading import load_model, load_tokenizer, train_tokenizer
from tests.support.tiny import byte_tokenizer

gguf = pytest.importorskip("gguf")
TEXT = "It's 12345 words: “ünlike” any\n\n other"
LLAMA_LIKE = {
    **{"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 300},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "head_dim": 16,
}
LLAMA3_ROPE = {
    **{"rope_type": "llama3", "rope_theta": 50000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
}
CASES = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64, "vocab_size": 300},
    "gpt2 of another inner size": {
        **{"n_layer": 2, "n_head": 2, "n_embd": 64, "n_inner": 96, "n_positions": 64},
        **{"vocab_size": 300, "tie_word_embeddings": False},
    },
    "llama": LLAMA_LIKE | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
    "llama 3": LLAMA_LIKE | {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True},
    "mistral": LLAMA_LIKE | {"sliding_window": 48, "head_dim": 8},
    "qwen2": LLAMA_LIKE | {"tie_word_embeddings": True},
    "qwen3": LLAMA_LIKE,
}


@pytest.fixture
def tokenizer():
    """Bytes, an end-of-text token, id 0, and 23 merges."""
    return train_tokenizer(["it is another word of many words, and any other word"], vocab_size=280)


def small(case, **changed):
    """A model whose every weight counts: norms and biases are no ones and zeros."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(case.split()[0], **CASES[case] | changed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.05
    return model


def written(path, model, tokenizer, type="f16"):
    write_gguf(path, model, tokenizer, type=type, metadata={"general.name": "small"})
    return path


@pytest.mark.parametrize("case", CASES)
def test_read_back_it_is_the_model_rounded(case, tmp_path, tokenizer):
    model = small(case)
    path = str(written(tmp_path / "m.gguf", model, tokenizer))
    other, its_tokenizer = load_model(path), load_tokenizer(path)
    assert its_tokenizer(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    for (name, own), its in zip(model.named_parameters(), other.parameters(), strict=True):
        is_rounded = own.ndim == 2 and not name.endswith("wpe.weight")
        assert torch.equal(own.half().float() if is_rounded else own, its), name
        own.data = its.data  # what is left is how the model computes
    other.save_pretrained(tmp_path / "saved")
    its_tokenizer.save_pretrained(tmp_path / "saved")
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    ids = torch.arange(1, 41)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, other(ids).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(saved(ids).logits, other(ids).logits, atol=0, rtol=0)


@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_eight_bits_are_near(case, tmp_path, tokenizer):
    model = small(case)
    path = written(tmp_path / "m.gguf", model, tokenizer, "q8_0")
    assert path.stat().st_size < written(tmp_path / "h.gguf", model, tokenizer).stat().st_size
    for own, its in zip(model.parameters(), load_model(str(path)).parameters(), strict=True):
        assert (own - its).abs().max() <= own.abs().max() / 220


def test_rows_that_are_no_whole_blocks_stay_in_16_bits(tmp_path, tokenizer):
    model = small("llama", intermediate_size=72)
    reader = gguf.GGUFReader(written(tmp_path / "m.gguf", model, tokenizer, "q8_0"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16" and kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_what_the_file_says(tmp_path, tokenizer):
    """By the reader of the `gguf` package: the keys of ggml/docs/gguf.md."""
    tokenizer.chat_template = "{{ messages[0].content }}"
    reader = gguf.GGUFReader(written(tmp_path / "m.gguf", small("mistral"), tokenizer))
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama" and said["general.name"] == "small"
    assert said["llama.context_length"] == 48  # llama.cpp knows no sliding window there
    assert said["llama.attention.head_count_kv"] == 2
    assert said["tokenizer.ggml.model"] == "gpt2" and said["tokenizer.ggml.pre"] == "gpt-2"
    assert said["tokenizer.chat_template"] == "{{ messages[0].content }}"
    assert said["tokenizer.ggml.eos_token_id"] == said["tokenizer.ggml.bos_token_id"] == 0
    assert said["tokenizer.ggml.add_bos_token"] is False
    kinds = said["tokenizer.ggml.token_type"]
    assert len(kinds) == 300 and kinds[0] == 3 and kinds[279:] == [1] + [5] * 20


def sentencepiece(space="normalizer"):
    """A BPE as Llama 2's: 256 bytes, a few merges, and a token that begins each text."""
    letters = ["▁", *"abcdehilnorstw"]
    merges = [("l", "l"), ("o", "w"), ("▁", "h"), ("▁h", "e"), ("▁he", "ll"), ("r", "l")]
    merges += [("h", "e"), ("e", "ll"), ("▁", "t"), ("▁t", "he")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += ["".join(pair) for pair in merges]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    if space == "normalizer":
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.normalizer = normalizers.Sequence(steps)
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=space, split=False)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def saved_again(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    return load_tokenizer(str(tmp_path / "saved"))


@pytest.mark.parametrize("space", ["normalizer", "first"])
def test_a_tokenizer_of_sentencepiece(space, tmp_path):
    own = sentencepiece(space)
    path = written(tmp_path / "m.gguf", small("llama"), own)
    its = saved_again(load_tokenizer(str(path)), tmp_path)
    for text in ("hello the world", "hell, ünlike", "low  rll"):
        assert own(text)["input_ids"] == its(text)["input_ids"], text
    said = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    assert said["tokenizer.ggml.model"] == "llama"
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert said["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]


@pytest.mark.parametrize(("expression", "name"), [(QWEN2, "qwen2"), (LLAMA3, "llama-bpe")])
def test_ways_of_cutting(expression, name, tmp_path, tokenizer):
    own = cut_by(tokenizer, expression)
    path = written(tmp_path / "m.gguf", small("llama"), own)
    assert gguf.GGUFReader(path).fields["tokenizer.ggml.pre"].contents() == name
    its = saved_again(load_tokenizer(str(path)), tmp_path)
    for text in (TEXT, "12345 <think> a<|endoftext|>"):
        assert own(text)["input_ids"] == its(text)["input_ids"]
        assert own(text)["input_ids"][0] == own.bos_token_id == 280


def cut_by(tokenizer, expression):
    """The tokenizer with another way of cutting, a token that begins each text, and one more."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.add_special_tokens(["<bos>"])
    backend.add_tokens(["<think>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 280)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<|endoftext|>"
    )


def test_another_way_of_cutting_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="cuts text in another way"):
        written(tmp_path / "m.gguf", small("llama"), cut_by(tokenizer, r"\d|\D+"))


def test_a_tokenizer_of_words_is_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(ValueError, match="is WordLevel, but only BPE"):
        written(tmp_path / "m.gguf", small("llama"), tokenizer)
    with pytest.raises(ValueError, match="is BPE without merges, but only BPE"):
        written(tmp_path / "m.gguf", small("llama"), byte_tokenizer())


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="has token id 279, but the embedding has 200 rows"):
        written(tmp_path / "m.gguf", small("llama", vocab_size=200), tokenizer)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (transformers.OPTConfig(), f"type opt .* only {', '.join(ARCHITECTURES)}"),
        (transformers.GPT2Config(activation_function="relu"), "activation_function is relu"),
        (transformers.LlamaConfig(attention_bias=True), "attention_bias is True"),
        (
            transformers.Qwen2Config(rope_parameters={**LLAMA3_ROPE}),
            "rope_type is llama3, but only default",
        ),
    ],
    ids=["type", "activation", "bias", "positions"],
)
def test_what_llama_cpp_does_not_compute_is_refused(config, fault):
    with pytest.raises(ValueError, match=fault):
        check_written(config)


def test_a_weight_that_16_bits_do_not_hold_is_refused(tmp_path, tokenizer):
    model = small("gpt2")
    model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"blk\.1\.ffn_up\.weight holds 100000, f16 holds"):
        written(tmp_path / "m.gguf", model, tokenizer)


def test_the_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'gpt2ft\[gguf\]'"):
        check_gguf()
