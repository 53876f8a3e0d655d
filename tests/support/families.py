"""Architectures of many kinds: positions from a mask, relative, none at all; a recurrent state."""

FAMILIES = {
    "bloom": {"n_layer": 2, "n_head": 2, "hidden_size": 32},
    "gpt_neox": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
    "opt": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64},
    "mistral": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
    "mamba": {"num_hidden_layers": 2, "hidden_size": 32},
    "qwen2": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
    "gemma2": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
}
SMALLER = {
    "opt": {"word_embed_proj_dim": 32},
    "mistral": {"num_key_value_heads": 2, "intermediate_size": 64, "sliding_window": 8},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 64},
    "gemma2": {
        **{"num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 16},
        **{"sliding_window": 8, "query_pre_attn_scalar": 16},
    },
}
