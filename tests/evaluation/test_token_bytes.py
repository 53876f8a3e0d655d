"""pytest tests/evaluation/test_token_bytes.py"""

import pytest

from gpt2ft import load_tokenizer
from gpt2ft.evaluation.token_bytes import token_bytes

TEXTS = ["plain words", "é 中 \U0001f600 ¿", "tabs\tand\nlines  and  spaces ", "0x0A <0x0A> ▁"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["tokenizer", "gpt2-mini"])
def test_the_tokens_of_a_text_have_its_bytes(name, text, request):
    own = name == "tokenizer"
    tokenizer = request.getfixturevalue(name) if own else load_tokenizer(name)
    sizes = token_bytes(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert sizes[ids].sum() == len(text.encode())
    assert sizes[tokenizer.eos_token_id] == 0


def test_sentencepiece_spells_spaces_and_bytes(sentence_piece):
    """It puts a space before a text, which counts."""
    sizes = token_bytes(sentence_piece)
    for text in ("ab a", "a中b"):
        ids = sentence_piece(text, add_special_tokens=False)["input_ids"]
        assert sizes[ids].sum() == 1 + len(text.encode()), sentence_piece.convert_ids_to_tokens(ids)


@pytest.fixture
def sentence_piece():
    """A tokenizer as Llama 2's: `▁` for a space, and bytes for what has no token."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "a", "b"]
    vocab = {piece: number for number, piece in enumerate([*pieces, "▁a"])}
    bpe = Tokenizer(
        models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
