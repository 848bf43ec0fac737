"""Bytes that autograd keeps from forward to backward, measured on real layers: the second opinion on
activations.

Layers are built from a spec's plain mapping, in its dtype, and run forward on the meta device (shapes and
no data, so the full sizes of a trillion-parameter model cost nothing). Every storage that the graph still
holds at the end is counted once. No formula stands here: what is counted is what `torch.autograd` was given to keep.

Two kernel profiles. `eager` runs the plain PyTorch operations of public modeling code. `fused` runs autograd
functions that keep what the kernels of Megatron-LM and TransformerEngine keep; those sources were read, not
run, so the profile is exactly as good as that reading.
"""

from archcalc.reference.saved.ends import embedding_bytes, head_bytes
from archcalc.reference.saved.layer import DecoderLayer, kind_storages, layer_bytes, layer_storages
from archcalc.reference.saved.measure import measure
from archcalc.reference.saved.options import Options
from archcalc.reference.saved.vision import (
    patch_embed_bytes,
    projector_bytes,
    vision_block_bytes,
    vision_norm_bytes,
)

__all__ = [
    "DecoderLayer",
    "Options",
    "embedding_bytes",
    "head_bytes",
    "kind_storages",
    "layer_bytes",
    "layer_storages",
    "measure",
    "patch_embed_bytes",
    "projector_bytes",
    "vision_block_bytes",
    "vision_norm_bytes",
]
