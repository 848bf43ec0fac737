"""The block that every vision transformer repeats: attention inside groups of patches, and a feed-forward."""

from dataclasses import dataclass
from typing import NamedTuple

from archcalc.tape import Dim, Number, Tape, Tensor
from archcalc.tape.values import NormKind


class BlockNames(NamedTuple):
    """Modules of a block in a checkpoint.

    Attributes:
        norm1, norm2: before attention and before the feed-forward.
        attn: what stands before the names inside attention: empty, or a module with its dot.
        qkv: one fused projection of queries, keys and values, or three.
        out: the output projection.
        fc1: the first linear, or gate and up.
        act: the activation.
        fc2: the last linear.
    """

    norm1: str
    norm2: str
    attn: str
    qkv: tuple[str, ...]
    out: str
    fc1: tuple[str, ...]
    act: str
    fc2: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """Sizes of a block.

    Attributes:
        heads, head_dim: of attention; their product may differ from the width of the residual stream.
        width: of the feed-forward.
        norm: kind of both norms.
        attention_bias, mlp_bias: biases of all projections there.
        rotary: whether queries and keys are rotated.
        between: results inside the activation that eager code keeps.
    """

    names: BlockNames
    heads: Dim
    head_dim: Dim
    width: Dim
    norm: NormKind
    attention_bias: bool
    mlp_bias: bool
    rotary: bool = True
    between: int = 0


def transformer_block(tape: Tape, x: Tensor, shape: BlockShape, pairs: Number) -> Tensor:
    """x: rows of patches, features [hidden]; returns the same. `pairs`: scored pairs of patches, times 2."""
    names = shape.names
    normed = tape.norm(x, names.norm1, kind=shape.norm, role="vision", site="vision_norm")
    out = _attention(tape, normed, shape, pairs)
    hidden = x.features
    out = tape.linear(out, names.out, hidden, role="vision", site="vision_attn_out", bias=shape.attention_bias)
    x = tape.add(x, out, "add_attn", site="residual")
    normed = tape.norm(x, names.norm2, kind=shape.norm, role="vision", site="vision_norm")
    inner = _feed_forward(tape, normed, shape)
    out = tape.linear(inner, names.fc2, hidden, role="vision", site="vision_fc2", bias=shape.mlp_bias)
    return tape.add(x, out, "add_mlp", site="residual")


def _attention(tape: Tape, x: Tensor, shape: BlockShape, pairs: Number) -> Tensor:
    names, each = shape.names, (shape.heads, shape.head_dim)
    made = (Dim("3", 3), *each) if len(names.qkv) == 1 else each
    several = [
        tape.linear(x, name, made, role="vision", site="vision_qkv", bias=shape.attention_bias) for name in names.qkv
    ]
    q, k, v = several if len(several) == 3 else 3 * several
    if shape.rotary:
        q = tape.rope(q, f"{names.attn}q_rope", each, turned=shape.head_dim, site="vision_qkv")
        k = tape.rope(k, f"{names.attn}k_rope", each, turned=shape.head_dim, site="vision_qkv")
    heads, dim = each
    return tape.attention(
        q.view(each),
        k.view(each),
        v.view(each),
        f"{names.attn}core",
        heads=heads,
        qk_dim=dim,
        v_dim=dim,
        pairs=pairs,
        site="vision_core_attn",
    )


def _feed_forward(tape: Tape, x: Tensor, shape: BlockShape) -> Tensor:
    """Up to the last linear's input."""
    names = shape.names
    if len(names.fc1) == 2:
        both = tape.gate_up(
            x, (names.fc1[0], names.fc1[1]), shape.width, role="vision", site="vision_fc1", bias=shape.mlp_bias
        )
        return tape.glu(both, names.act, shape.width, site="vision_act", between=shape.between)
    inner = tape.linear(x, names.fc1[0], (shape.width,), role="vision", site="vision_fc1", bias=shape.mlp_bias)
    return tape.activation(inner, names.act, site="vision_act", between=shape.between)
