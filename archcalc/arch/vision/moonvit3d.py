"""MoonViT-3D: a native-resolution vision transformer for images and chunks of video frames."""

from math import sqrt
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from archcalc.arch.block import Depth, Dtype, Real
from archcalc.arch.rope import Base
from archcalc.arch.rows import sequences
from archcalc.arch.vision.tower import Features, Group, Tower, check_fours
from archcalc.arch.vision.transformer import BlockNames, BlockShape, transformer_block
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import Dim, Dims, Tape, Tensor, Term
from archcalc.tape.values import NormKind
from archcalc.workload import Workload

NAMES = BlockNames(
    norm1="norm0",
    norm2="norm1",
    attn="",
    qkv=("wqkv",),
    out="wo",
    fc1=("mlp.fc0",),
    act="mlp.act",
    fc2="mlp.fc1",
)


class MoonViT3D(Tower):
    """The tower of Kimi K2.5 and, with RMSNorm, no biases and wider heads, of Kimi K3.

    After the last block frames are averaged over time and patches grouped, so that one backbone token stands for a
    merge window of one chunk.
    """

    about = About(
        (
            "Vision transformer over image patches at native resolution; video runs in chunks of a few frames (Kimi "
            "K2.5, arXiv:2602.02276)"
        ),
        kind="Which tower this is",
        vt_hidden_size="Width of the tower's residual stream [elements]",
        vt_num_hidden_layers="Layers of the tower",
        vt_num_attention_heads="Heads of its attention",
        vt_intermediate_size="Width of its feed-forward [elements]",
        qkv_hidden_size="Width of all heads together (Kimi K3); left out: `vt_hidden_size` [elements]",
        norm_type="Kind of its norms: `layernorm` (K2.5) or `rmsnorm` (Kimi K3)",
        attn_bias="Whether the linears of attention have biases",
        linear_bias="Whether the linears of the feed-forward have biases",
        patch_embed_proj_bias="Whether the patch convolution has a bias",
        in_channels="Channels of a picture",
        patch_size="Side of a patch [pixels]",
        init_pos_emb_height="Rows of the learned table of positions [patches]",
        init_pos_emb_width="Columns of the learned table of positions [patches]",
        init_pos_emb_time="Frames of the table of times, which is fixed and has no parameters [frames]",
        pos_emb_type=(
            "`divided_fixed`: learned positions of the patch grid, interpolated to each picture, and a fixed table of "
            "times"
        ),
        merge_kernel_size="Sides of the merge window that becomes one backbone token, height and width [patches]",
        merge_type="`sd2_tpool`: windows are merged in space, and the frames of a chunk averaged over time",
        video_attn_type="`spatial_temporal`: within a chunk every patch attends to every other",
        layer_norm_eps="Epsilon of the tower's norms. Changes no size",
        rope_theta="Base of the tower's rotary embedding. Changes no size",
        dtype="Dtype of the tower's weights and activations where nothing else says otherwise",
        in_patch_limit="Patches of an image at most, before padding to merge windows [patches]",
        in_patch_limit_each_frame="Patches of a frame of a video at most, before padding [patches]",
        patch_limit_on_one_side="Patches along a side at most [patches]",
        temporal_merge_kernel_size="Frames of one chunk of a video [frames]",
    )
    purposes: ClassVar[dict[str, str]] = {
        "patch_embed.proj": (
            "Turns each patch of pixels into a feature vector: a convolution whose stride is its kernel."
        ),
        "patch_embed.pos_emb": (
            "Learned positions of the patch grid, interpolated to each image; the time table is fixed and has no "
            "parameters."
        ),
        "norm0": "Normalises before attention.",
        "norm1": "Normalises before the feed-forward.",
        "wqkv": "Makes queries, keys and values of all heads in one fused matrix.",
        "wo": "Mixes the heads' outputs.",
        "mlp.fc0": "Expands to the feed-forward width.",
        "mlp.fc1": "Brings the feed-forward features back.",
        "mlp.act": "GELU (tanh form): the activation between the two; it has no parameters.",
        "core": "Full attention over all patches of one chunk.",
        "vision_tower.encoder.final_layernorm": (
            "Normalises the last features before frames are averaged and patches merged."
        ),
    }

    retired: ClassVar[frozenset[str]] = frozenset({"sample_fps"})
    kind: Literal["moonvit3d"]
    vt_hidden_size: Size
    vt_num_hidden_layers: Depth
    vt_num_attention_heads: Size
    vt_intermediate_size: Size
    qkv_hidden_size: Size | None = None
    norm_type: Literal["layernorm", "rmsnorm"] = "layernorm"
    attn_bias: bool = True
    linear_bias: bool = True
    patch_embed_proj_bias: bool = True
    in_channels: Size
    patch_size: Size
    init_pos_emb_height: Size
    init_pos_emb_width: Size
    init_pos_emb_time: Size
    pos_emb_type: Literal["divided_fixed"]
    merge_kernel_size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    merge_type: Literal["sd2_tpool"]
    video_attn_type: Literal["spatial_temporal"]
    layer_norm_eps: Real
    rope_theta: Base
    dtype: Dtype
    in_patch_limit: Size
    in_patch_limit_each_frame: Size
    patch_limit_on_one_side: Size
    temporal_merge_kernel_size: Size

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        key = "vt_hidden_size" if self.qkv_hidden_size is None else "qkv_hidden_size"
        if self._qkv_width % self.vt_num_attention_heads:
            raise FieldError(
                f"{key} {self._qkv_width} does not divide into vt_num_attention_heads {self.vt_num_attention_heads}",
                key,
                "vt_num_attention_heads",
            )
        check_fours(
            self._qkv_width // self.vt_num_attention_heads,
            f"{key} / vt_num_attention_heads",
            key,
            "vt_num_attention_heads",
        )
        for i, side in enumerate(("init_pos_emb_height", "init_pos_emb_width")):
            if getattr(self, side) % self.merge_kernel_size[i]:
                raise FieldError(
                    f"{side} {getattr(self, side)} does not divide into merge_kernel_size {self.merge_kernel_size[i]}",
                    side,
                    ("merge_kernel_size", i),
                )
        return self

    @property
    def _qkv_width(self) -> int:
        """Features of all heads together [elements]."""
        return self.vt_hidden_size if self.qkv_hidden_size is None else self.qkv_hidden_size

    @property
    def _norm(self) -> NormKind:
        return "layer" if self.norm_type == "layernorm" else "rms"

    @property
    def output_dim(self) -> Dim:
        """Features of one patch as the projector gets them [elements]."""
        return self.dim("vt_hidden_size")

    @property
    def token_side(self) -> int:
        """Side of the square that one backbone token stands for [pixels]."""
        return self.patch_size * max(self.merge_kernel_size)

    @property
    def group_frames(self) -> int:
        """Frames of one chunk."""
        return self.temporal_merge_kernel_size

    # -- from pixels to patches -----------------------------------------------------------------------------------

    def grid(self, height: int, width: int, limit: int) -> tuple[int, int]:
        """Patches (h, w) of a picture after resizing (never up) and zero-padding to whole merge windows.

        The rule of the model's public image processor: at most `limit` patches by area, floored per side, and
        `patch_limit_on_one_side` patches a side; flooring happens before padding, so the limit can be exceeded a
        little.
        """
        patch, side = self.patch_size, self.patch_limit_on_one_side * self.patch_size
        area = max(1, height // patch) * max(1, width // patch)
        scale = min(1.0, sqrt(limit / area), side / height, side / width)
        merge_h, merge_w = self.merge_kernel_size
        new_h, new_w = (min(max(1, int(length * scale)), side) for length in (height, width))
        return -(-new_h // (patch * merge_h)) * merge_h, -(-new_w // (patch * merge_w)) * merge_w

    def groups(self, workload: Workload) -> list[Group]:
        """The chunks that one sequence's images and videos make; none in decode, where they are cached context."""
        if workload.phase == "decode":
            return []
        chunks = [Group(*group) for group in workload.groups]
        chunks += [Group(1, *self.grid(h, w, self.in_patch_limit)) for h, w in workload.images]
        step = self.temporal_merge_kernel_size
        for frames, height, width in workload.videos:
            h, w = self.grid(height, width, self.in_patch_limit_each_frame)
            chunks += [Group(min(step, frames - start), h, w) for start in range(0, frames, step)]
        return chunks

    def tokens(self, groups: list[Group]) -> int:
        """Backbone tokens of the chunks: frames are averaged, windows merged."""
        window = self.merge_kernel_size[0] * self.merge_kernel_size[1]
        return sum(c.h * c.w // window for c in groups)

    # -- the forward pass -----------------------------------------------------------------------------------------

    def forward(self, tape: Tape) -> Features:
        """Pixels in; patches grouped, not yet mixed."""
        chunks = self.groups(tape.workload)
        batch = sequences(tape)
        rows = (batch, Dim("patches", sum(c.patches for c in chunks)))
        tokens = self.tokens(chunks)
        hidden = self.dim("vt_hidden_size")
        with tape.scope("", purposes=self.purposes):
            with tape.segment("vision_tower.patch_embed", "vision", scope="", dtype=self.dtype):
                x = self._embed(tape, rows, hidden)
            pairs = (Term(2, (batch, Dim("patch_pairs", sum(c.patches**2 for c in chunks)))),)
            layers = tuple(range(self.vt_num_hidden_layers))
            with tape.segment("vision_tower.encoder.blocks.{i}", "vision", x, layers, dtype=self.dtype) as inner:
                x = transformer_block(tape, inner, self._shape(), pairs)
            last = "vision_tower.encoder.final_layernorm"
            with tape.segment(last, "vision", x, scope="", dtype=self.dtype) as inner:
                x = tape.norm(inner, last, kind=self._norm, role="vision", site="vision_norm")
                window = Dim("merge_kernel_size²", self.merge_kernel_size[0] * self.merge_kernel_size[1])
                merged = (batch, Dim("vision_tokens", tokens))
                pooled = tape.copy((x,), "vision_tower.sd2_tpool", (window, hidden), site="vision_merge", rows=merged)
        tape.vision_tokens += tokens
        return Features(pooled)

    def _embed(self, tape: Tape, rows: Dims, hidden: Dim) -> Tensor:
        kernel = (Dim("patch_size", self.patch_size), Dim("patch_size", self.patch_size))
        channels, bias = self.dim("in_channels"), self.patch_embed_proj_bias
        with tape.scope("vision_tower"):
            x = tape.conv_patch(rows, "patch_embed.proj", channels, kernel, hidden, role="vision", bias=bias)
            table = (self.dim("init_pos_emb_height"), self.dim("init_pos_emb_width"), hidden)
            return tape.add_table(x, "patch_embed.pos_emb", table, role="vision", site="patch_embed")

    def _shape(self) -> BlockShape:
        return BlockShape(
            names=NAMES,
            heads=self.dim("vt_num_attention_heads", "vision_heads"),
            head_dim=Dim("vt_head_dim", self._qkv_width // self.vt_num_attention_heads),
            width=self.dim("vt_intermediate_size", "vision_ffn"),
            norm=self._norm,
            attention_bias=self.attn_bias,
            mlp_bias=self.linear_bias,
        )
