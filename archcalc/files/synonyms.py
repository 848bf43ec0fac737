"""Words of papers and other programs for what has another name here."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["synonym"]

_OURS = {
    "mha": ("gqa", "mha is gqa with num_key_value_heads = num_attention_heads"),
    "mqa": ("gqa", "mqa is gqa with num_key_value_heads 1"),
    "swa": ("gqa", "swa is gqa with a sliding_window"),
    "gdn": ("gated_deltanet", "gdn is gated_deltanet"),
    "mlp": ("dense", "an mlp is dense; gated says whether it has a gate"),
    "swiglu": ("dense", "swiglu is dense with gated true and hidden_act silu"),
    "geglu": ("dense", "geglu is dense with gated true and hidden_act gelu"),
    "bf16": ("bfloat16", "did you mean bfloat16?"),
    "fp16": ("float16", "did you mean float16?"),
    "fp32": ("float32", "did you mean float32?"),
    "bfloat16": ("bf16", "did you mean bf16?"),
    "float16": ("fp16", "did you mean fp16?"),
    "float32": ("fp32", "did you mean fp32?"),
    "layernorm": ("layer", "did you mean layer?"),
    "rmsnorm": ("rms", "did you mean rms?"),
}
"""The word, what it is called here, and what to say."""


def synonym(word: str, choices: Iterable[str]) -> str | None:
    """What to say of a word that is none of the choices, and means one of them."""
    ours, hint = _OURS.get(word.lower().replace("_", ""), ("", ""))
    return hint if ours and ours in choices else None
