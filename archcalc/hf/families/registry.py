"""Every model type: how it is read, or what is missing for it."""

from __future__ import annotations

from archcalc.hf.dialect import Dialect, Multimodal
from archcalc.hf.families.dense import DENSE_TEXT
from archcalc.hf.families.hybrid import HYBRID_TEXT
from archcalc.hf.families.latent import LATENT_TEXT
from archcalc.hf.families.moe import MOE_TEXT
from archcalc.hf.families.vision import VISION, VISION_TEXT

TEXT: dict[str, Dialect] = {
    row.model_type: row for row in (*DENSE_TEXT, *MOE_TEXT, *LATENT_TEXT, *HYBRID_TEXT, *VISION_TEXT)
}
MULTIMODAL: dict[str, Multimodal] = {row.model_type: row for row in VISION}

MISSING: dict[str, str] = {
    "bloom": "LayerNorm backbones are supported, ALiBi and fused biased projections are not yet",
    "deepseek_v4": "compressed attention and hyper-connections are not supported yet",
    "falcon": "its parallel block and fused projections are not read yet",
    "gemma": "its dialect is not read yet",
    "gemma2": "soft-capped attention is not read yet",
    "gemma3": "its SigLIP tower is not read yet; a config of type gemma3_text is",
    "gemma3n": "sliding windows are supported, per-layer embeddings are not yet",
    "gemma4": "sliding windows are supported, per-layer geometry and per-layer embeddings are not yet",
    "gpt2": "its dialect is not read yet",
    "gpt_oss": "sliding windows are supported, attention sinks and biased experts are not read yet",
    "lfm2": "short convolution layers are not read yet",
    "llama4": "chunked attention and its vision tower are not read yet",
    "mimo_v2_flash": "attention sinks and a geometry per layer type are not read yet",
    "minimax_m1": "lightning attention is not supported yet",
    "nemotron_h": "Mamba-2 layers are not supported yet",
    "opt": "its dialect is not read yet",
}
"""Types that are known and not read, each with what is missing."""

_ENCODERS = """
albert bart bert camembert clip clip_vision_model deberta deberta-v2 distilbert electra modernbert roberta siglip
siglip_vision_model t5 umt5 vit wav2vec2 whisper xlm-roberta
"""

ENCODERS = frozenset(_ENCODERS.split())
"""Types that are no decoders."""
