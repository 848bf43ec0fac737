"""Keys that no table of a dialect takes: harmless ones, off ones, and those that could be a size."""

from __future__ import annotations

import re

from archcalc.errors import Problem
from archcalc.hf.config import Config, named, show
from archcalc.hf.dialect import Must

_WORDS = """
dual_chunk_attention_config full_attn_mod interpolate_factor language_model_only num_labels processor_class
type_vocab_size
_attn_implementation _attn_implementation_autoset _commit_hash _experts_implementation _name_or_path add_bos_token
add_cross_attention add_eos_token architectures attention_dropout attention_multiplier attention_probs_dropout_prob
attn_dropout attn_implementation attn_pdrop audio_token_id auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens
boi_token_id bos_token bos_token_id cache_implementation chunk_size_feed_forward clip_qkv cls_token_id
cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout dropout_rate dtype
early_stopping embd_pdrop embedding_multiplier encoder_no_repeat_ngram_size eoi_token_id eos_token eos_token_id
exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id freeze_vision_tower
hf_quant_config hidden_dropout hidden_dropout_prob id2label ignore_index image_placeholder image_token_id
image_token_index initializer_factor initializer_range input_jitter_noise is_decoder is_encoder_decoder
keys_to_ignore_at_inference label2id length_penalty license logits_scaling mask_token_id max_length max_window_layers
media_placeholder_token_id min_length mlp_bias_init model_type name_or_path no_repeat_ngram_size num_beam_groups
num_beams num_return_sequences output_attentions output_hidden_states output_past output_router_logits output_scores
pad_token pad_token_id partial_rotary_factor prefix pretraining_tp problem_type pruned_heads quantization
quantization_config query_pre_attn_scalar remove_invalid_values repetition_penalty rescale_every resid_pdrop
residual_dropout residual_multiplier return_dict return_dict_in_generate rope_interleave rope_local_base_freq
rope_parameters rope_ratio rope_scaling rope_scaling_factor rope_theta rotary_dim router_aux_loss_coef
router_jitter_noise router_z_loss_coef scale_emb sep_token_id seq_aux seq_length summary_activation suppress_tokens
task_specific_params temperature tensor_parallel_size text_config tf_legacy_loss tie_encoder_decoder tokenizer_class
top_k top_p torch_dtype torchscript training_args transformers.js_config transformers_version transformers_weights
bf16 fp16 fp32 is_causal is_llama_config num_logits_to_keep sequence_parallel tensor_parallel_output trust_remote_code
use_liger_kernel neftune_noise_alpha
typical_p unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache use_flash_attn use_logits_to_keep
video_token_id video_token_index vision_config vision_end_token_id vision_start_token_id vision_token_id world_size
"""

HARMLESS = frozenset(_WORDS.split())
"""Keys that change no size in any family that is read here: bookkeeping, generation, dropout, token ids, losses."""

HARMLESS_FLOAT = re.compile(
    r"dropout|_lr|learning_rate|_rate$|coef|_eps$|epsilon|_std$|theta|temperature|scal|penalty|prob|alpha|beta|decay|loss"
    r"|noise|clip|softcap|multiplier|momentum|limit"
)
"""Words of a number that is no integer and no size."""

HARMLESS_NAME = re.compile(
    r"_\w*|(?!\w*(_dim|_dims|_rank|_size|_sizes|_heads|_layers|_experts|_groups|_width|_num|_channels)s?$)\w*(token|max_|seq_len"
    r"|context_len|ctx|ntk|logn|rope|rotary|interleave|loss|aux_|dropout|jitter|seed|lora|unsloth|gradient|flash|initializer"
    r"|verbose|debug|cache|label|version|mtp_iter|use_scaled|scale|dtype|precision|offload)\w*|(tp|pp|ep|dp|world|batch)_size"
)
"""Keys whose very name says that they are no size."""


def judge(config: Config, must: Must, harmless: frozenset[str]) -> list[Problem]:
    """What is wrong with the keys that nothing has read; what became of them is noted in the config."""
    problems = []
    for key, value in config.data.items():
        if key in config.taken:
            continue
        rule = must.get(key)
        if rule is not None:
            allowed = (rule(config),) if callable(rule) else rule
            if value is None or any(value == one and type(value) is type(one) for one in allowed):
                config.taken[key] = "the class does this always"
                continue
            only = " or ".join(show(one) for one in allowed)
            message = f"{named(key)} is {show(value)}, and what is supported for this model type is {only}"
            problems.append(_problem(config, key, message, "the public class ignores the key and does that always"))
        elif key in harmless or key in HARMLESS or HARMLESS_NAME.fullmatch(key):
            config.taken[key] = "harmless"
        elif value is None or value is False or value in ("", 0) or value == [] or value == {}:
            config.taken[key] = "off"
        elif isinstance(value, str):
            config.taken[key] = "text, no size"
        elif isinstance(value, float) and HARMLESS_FLOAT.search(key):
            config.taken[key] = "no size"
        elif key == "layer_types" and isinstance(value, list) and set(map(str, value)) == {"full_attention"}:
            config.taken[key] = "full attention in every layer"
        elif key in config.facts.defaults and value == config.facts.defaults[key]:
            config.taken[key] = "as the class has it"
        else:
            message = f"{named(key)} {show(value)} could change a size, and this model type is not known to have it"
            hint = "if the model's class reads it, archcalc needs a rule for it; if not, delete the key"
            problems.append(_problem(config, key, message, hint))
    return problems


def _problem(config: Config, key: str, message: str, hint: str) -> Problem:
    return config.document.problem(message, (*config.loc, key), key=True, value=config.data[key], hint=hint)
