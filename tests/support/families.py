"""Architectures of many kinds: positions from a mask, relative, none at all; a recurrent state."""

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

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

CAUSAL_LMS = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

SIZES = {
    "vocab_size": 257,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0),
}
for number, names in {
    0.1: "attention_dropout attn_pdrop resid_pdrop embd_pdrop hidden_dropout dropout "
    "hidden_dropout_prob attention_probs_dropout_prob",
    1: "n_group topk_group n_groups num_expert_group n_shared_experts num_nextn_predict_layers "
    "first_k_dense_replace mamba_n_groups",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
    "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
    "num_key_value_heads num_kv_heads num_experts_per_tok num_experts_per_token moe_topk top_k "
    "num_query_groups swa_num_attention_heads swa_num_key_value_heads mamba_n_heads "
    "linear_num_key_heads linear_num_value_heads index_n_heads mamba_num_heads n_mamba_heads "
    "linear_num_heads moe_k",
    4: "num_experts num_local_experts n_routed_experts moe_num_experts mamba_d_state state_size "
    "time_step_rank index_topk ssm_state_size mamba_dt_rank",
    8: "sliding_window qk_rope_head_dim index_head_dim window_size rotary_dim",
    16: "head_dim kv_channels linear_key_head_dim linear_value_head_dim q_lora_rank kv_lora_rank "
    "qk_nope_head_dim v_head_dim attention_head_dim swa_head_dim dim_head linear_head_dim "
    "mamba_chunk_size chunk_size hidden_size_per_layer_input",
    32: "hidden_size n_embd d_model word_embed_proj_dim embed_dim embedding_size moe_latent_size "
    "lru_width emb_dim mamba_d_head mamba_head_dim mamba_headdim",
    64: "intermediate_size n_inner ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim ffn_hidden_size "
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size d_inner "
    "expert_ffn_hidden_size moe_shared_expert_intermediate_size intermediate_size_mlp "
    "max_position_embeddings n_positions n_ctx context_length attention_hidden_size dff dim_ff "
    "shared_experts_intermediate_size dense_intermediate_size",
    257: "vocab_size_per_layer_input unpadded_vocab_size",
}.items():
    SIZES.update(dict.fromkeys(names.split(), number))


# What some types want besides.
ODD = {
    "axk1": {"head_dim": 8},
    "deepseek_v3": {"head_dim": 8},
    "longcat_flash": {"head_dim": 8},
    "youtu": {"head_dim": 8},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_assistant": {"num_kv_shared_layers": 0},
    "blt": {"encoder_hash_byte_group_vocab": 257},
    "codegen": {"n_head": 4},
    "diffllama": {"attention_dropout": 0.0},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4},
    "mpt": {"attn_config": {"attn_pdrop": 0}},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "roc_bert": {"shape_vocab_size": 257, "pronunciation_vocab_size": 257},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(model_type):
    """The configuration of a small model of that type."""
    usual = transformers.AutoConfig.for_model(model_type)
    settings = {**_smaller(usual.to_dict()), **ODD.get(model_type, {})}
    return transformers.AutoConfig.for_model(model_type, **settings)


def _smaller(values):
    """Of the settings, those that make a model large, small; in parts of the model as well."""
    small = {name: SIZES[name] for name, value in values.items() if name in SIZES}
    parts = {n: _smaller(value) for n, value in values.items() if n.endswith("_config") and value}
    return {**small, **parts}
