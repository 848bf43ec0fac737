"""Where checkpoints keep the parts of a vision transformer, by the family whose public class names them so."""

from collections.abc import Mapping
from typing import NamedTuple

from archcalc.arch.vision.transformer import BlockNames


class TowerNames(NamedTuple):
    """Modules of a tower in a checkpoint: patch convolution, position table, blocks, and one block's own."""

    patches: str
    positions: str
    blocks: str
    block: BlockNames
    gated: BlockNames


def _qwen(fc1: str, fc2: str, act: str) -> TowerNames:
    block = BlockNames("norm1", "norm2", "attn.", ("attn.qkv",), "attn.proj", (f"mlp.{fc1}",), act, f"mlp.{fc2}")
    gated = block._replace(fc1=("mlp.gate_proj", "mlp.up_proj"), act="mlp.act_fn", fc2="mlp.down_proj")
    return TowerNames("patch_embed.proj", "pos_embed", "blocks.{i}", block, gated)


_THREE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_CLIP = BlockNames(
    norm1="layer_norm1",
    norm2="layer_norm2",
    attn="self_attn.",
    qkv=_THREE,
    out="self_attn.out_proj",
    fc1=("mlp.fc1",),
    act="mlp.activation_fn",
    fc2="mlp.fc2",
)
NAMES: Mapping[str, TowerNames] = {
    "qwen2_vl": _qwen("fc1", "fc2", "mlp.act"),
    "qwen3_vl": _qwen("linear_fc1", "linear_fc2", "mlp.act_fn"),
    "clip": TowerNames(
        "embeddings.patch_embedding",
        "embeddings.position_embedding",
        "encoder.layers.{i}",
        _CLIP,
        _CLIP._replace(fc1=("mlp.gate_proj", "mlp.up_proj"), fc2="mlp.down_proj"),
    ),
}
"""By the family whose public class has them (transformers: qwen2_vl and qwen2_5_vl, qwen3_vl and qwen3_5, clip and
siglip)."""
