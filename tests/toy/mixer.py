"""A mixer and a tower that no bundled spec has, written as CONTRIBUTING tells: no calculator knows of them."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from archcalc.arch.attention.gqa import GQA
from archcalc.arch.attention.mla import MLA
from archcalc.arch.block import Block, Dtype
from archcalc.arch.decoder import Decoder
from archcalc.arch.rows import key_rows, pairs, sequences
from archcalc.arch.vision.moonvit3d import MoonViT3D
from archcalc.arch.vision.tower import Features, Group, Tower
from archcalc.files.model import Spec
from archcalc.section import Size
from archcalc.tape import Cache, Dim, Span, Storage, Tape, Tensor
from archcalc.workload import Workload


class Toy(Block):
    """Three memories side by side: a window of keys and values, one latent for a few tokens, and a state in fp32."""

    purposes: ClassVar[dict[str, str]] = {"sinks": "A logit a head that takes part in the windowed softmax."}

    kind: Literal["toy"]
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    window: Size
    stride: Size
    latent: Size
    conv_kernel: Size

    def forward(self, tape: Tape, x: Tensor) -> Tensor:
        """x: rows [batch, seq], features [hidden]; returns the same shape."""
        heads, kv_heads = self.dim("num_attention_heads", "heads"), self.dim("num_key_value_heads", "kv_heads")
        dim, latent, keys = self.dim("head_dim"), self.dim("latent"), key_rows(tape)
        window, stride = Span("window", self.window, "window"), Span("stride", self.stride, "stride")

        q = tape.linear(x, "q_proj", (heads, dim), role="attention", site="qkv")
        k = tape.linear(x, "k_proj", (kv_heads, dim), role="attention", site="qkv")
        v = tape.linear(x, "v_proj", (kv_heads, dim), role="attention", site="qkv")
        near = tape.attention(
            q,
            k.view(k.features, keys),
            v.view(v.features, keys),
            "core",
            heads=heads,
            qk_dim=dim,
            v_dim=dim,
            pairs=pairs(tape, window),
            span=window,
            sinks=True,
            caches=(Cache("key", (kv_heads, dim), window), Cache("value", (kv_heads, dim), window)),
        )

        far_q = tape.linear(x, "far_q", (heads, latent), role="attention", site="qkv", bare=True)
        entry = tape.linear(x, "compress", (latent,), role="attention", site="kv_down")
        far = tape.attention(
            far_q,
            entry.view(entry.features, keys),
            entry.view(entry.features, keys),
            "far_core",
            heads=heads,
            qk_dim=latent,
            v_dim=latent,
            pairs=pairs(tape, stride),
            span=stride,
            caches=(Cache("latent", (latent,), stride),),
        )

        channels = Dim("channels", heads.size * dim.size, "heads")
        inner = tape.linear(x, "scan_in", (channels,), role="attention", site="qkv")
        inner = tape.short_conv(inner, "conv1d", self.dim("conv_kernel"), role="attention")
        gates = Storage(inner.rows, (heads,), "float32")
        state = tape.scan((inner,), "scan", heads=heads, key_dim=dim, value_dim=dim, cell_flops=6, keeps=(gates,))

        joined = tape.copy((near, far, state), "join", (heads, dim + latent + dim), site="attn_out")
        return tape.linear(joined, "o_proj", x.features, role="attention", site="attn_out")


class ToyTower(Tower):
    """One linear over each patch; the patches of a picture never meet."""

    kind: Literal["toy_tower"]
    patch: Size
    width: Size
    window: Size
    dtype: Dtype

    @property
    def output_dim(self) -> Dim:
        """Features of one patch [elements]."""
        return self.dim("width")

    @property
    def token_side(self) -> int:
        """Side of the square of a window's patches [pixels]."""
        return self.patch * isqrt(self.window)

    @property
    def group_frames(self) -> int:
        """A group is of one picture."""
        return 1

    def groups(self, workload: Workload) -> list[Group]:
        """A group for each patch of each picture; the tower takes no videos."""
        if workload.phase == "decode":
            return []
        patches = sum((h // self.patch) * (w // self.patch) for h, w in workload.images)
        return [Group(1, 1, 1)] * patches

    def tokens(self, groups: list[Group]) -> int:
        """A token for a window of patches."""
        return len(groups) // self.window

    def forward(self, tape: Tape) -> Features:
        """Pixels in; rows [batch, vision_tokens], features [window, width] out."""
        groups = self.groups(tape.workload)
        batch = sequences(tape)
        rows = (batch, Dim("patches", len(groups)))
        kernel = (Dim("patch", self.patch), Dim("patch", self.patch))
        with tape.segment("vision_tower", "vision", dtype=self.dtype):
            x = tape.conv_patch(rows, "proj", Dim("3", 3), kernel, self.output_dim, role="vision")
            merged = (batch, Dim("vision_tokens", self.tokens(groups)))
            x = tape.copy((x,), "merge", (self.dim("window"), self.output_dim), site="vision_merge", rows=merged)
        tape.vision_tokens += self.tokens(groups)
        return Features(x)


class ToyDecoder(Decoder):
    """The decoder with one attention more in its union."""

    attention: dict[str, Annotated[MLA | GQA | Toy, Field(discriminator="kind")]]  # type: ignore[assignment]


class ToySpec(Spec):
    """The spec with the toy's mixer and tower in its unions."""

    backbone: ToyDecoder
    vision: Annotated[MoonViT3D | ToyTower, Field(discriminator="kind")] | None = None  # type: ignore[assignment]
