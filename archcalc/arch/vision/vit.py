"""A vision transformer as most public models have it: Qwen2-VL to Qwen3.5, CLIP, SigLIP."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from archcalc.arch.block import Activation, Depth, Dtype, Real
from archcalc.arch.layers import Name
from archcalc.arch.rope import Base
from archcalc.arch.rows import sequences
from archcalc.arch.vision.names import NAMES
from archcalc.arch.vision.processor import FixedSize, Processor
from archcalc.arch.vision.tower import Features, Group, Tower, check_fours
from archcalc.arch.vision.transformer import BlockShape, transformer_block
from archcalc.errors import FieldError
from archcalc.section import About, Size
from archcalc.tape import Dim, Tape, Tensor, Term
from archcalc.workload import Workload

Index = Annotated[int, Field(ge=0, le=9_999)]


class ViT(Tower):
    """Vision transformer over the patches of a picture (arXiv:2010.11929) with learned positions, rotary ones or both.

    Patches attend to those of their own picture, or of their own frames of a video, `temporal_patch_size` of which make
    one layer of patches.
    """

    about = About(
        (
            "Vision transformer over the patches of a picture (arXiv:2010.11929) with learned positions, rotary ones "
            "or both"
        ),
        kind="Which tower this is",
        names=(
            "Whose public class names the modules: `qwen2_vl` (and Qwen2.5-VL), `qwen3_vl` (and Qwen3.5), `clip` (and "
            "SigLIP)"
        ),
        prefix="Module of the checkpoint that holds the tower, such as model.visual",
        text_prefix="Module of the checkpoint that holds the decoder beside the tower",
        hidden_size="Width of the tower's residual stream [elements]",
        num_hidden_layers="Layers of the tower",
        num_attention_heads="Heads of its attention",
        head_dim="Features of a head [elements]",
        intermediate_size="Width of its feed-forward [elements]",
        hidden_act=(
            "Activation of its feed-forward. Changes no count: what eager code keeps for backward follows from it"
        ),
        gated="Whether its feed-forward has a gate: three matrices, not two",
        attention_bias="Whether the linears of attention have biases",
        mlp_bias="Whether the linears of the feed-forward have biases",
        norm="Kind of its norms: `layer` or `rms`",
        norm_eps="Epsilon of its norms. Changes no size",
        in_channels="Channels of a picture",
        patch_size="Side of a patch [pixels]",
        temporal_patch_size="Frames that make one layer of patches; an image is repeated [frames]",
        patch_embed_bias="Whether the patch convolution has a bias",
        num_position_embeddings="Rows of a learned position table, the class token's included; left out: none",
        interpolate_pos_encoding="Whether learned positions are interpolated to each picture's grid",
        class_token="Whether a learned row stands before the patches (CLIP)",
        pre_norm="Whether there is a norm before the first layer (CLIP)",
        post_norm="Whether there is a norm after the last layer",
        rope_theta="Base of the tower's rotary embedding; null: no rotation. Changes no size",
        spatial_merge_size="Side of the merge window that becomes one backbone token; 1: no merge [patches]",
        window_size=(
            "Side of the windows that attention stays in (Qwen2.5-VL, arXiv:2502.13923); left out: the whole picture "
            "[pixels]"
        ),
        fullatt_block_indexes="Layers that attend to the whole picture all the same; goes with `window_size`",
        deepstack_visual_indexes=(
            "Layers that hand on their features beside the last one, each to a layer of the backbone (Qwen3-VL)"
        ),
        processor="How a picture is resized before patches are cut",
        dtype="Dtype of the tower's weights and activations where nothing else says otherwise",
    )
    purposes: ClassVar[dict[str, str]] = {
        "patches": "Turns each patch of pixels into a feature vector: a convolution whose stride is its kernel.",
        "positions": "Learned positions of the patch grid, interpolated where the grid is not the table's own.",
        "class_embedding": "A learned row before the patches, which can gather what the whole picture shows.",
        "pre_layrnorm": "Normalises patches and positions before the first block.",
        "post_layernorm": "Normalises the last features before they leave the tower.",
        "window_index": "Brings the patches of a window together, so that windows can attend one after another.",
        "norm1": "Normalises before attention.",
        "norm2": "Normalises before the feed-forward.",
        "qkv": "Makes queries, keys and values of all heads.",
        "out": "Mixes the heads' outputs.",
        "fc1": "Expands to the feed-forward width.",
        "fc2": "Brings the feed-forward features back.",
        "act": "The activation between the two; it has no parameters.",
        "core": "Attention over the patches of one picture, frame or window.",
    }

    kind: Literal["vit"]
    names: Literal["qwen2_vl", "qwen3_vl", "clip"]
    prefix: Name
    text_prefix: Literal["model", "model.language_model", "language_model.model"]
    hidden_size: Size
    num_hidden_layers: Depth
    num_attention_heads: Size
    head_dim: Size
    intermediate_size: Size
    hidden_act: Activation | Literal["quick_gelu"]
    gated: bool
    attention_bias: bool
    mlp_bias: bool
    norm: Literal["layer", "rms"]
    norm_eps: Real
    in_channels: Size
    patch_size: Size
    temporal_patch_size: Size = 1
    patch_embed_bias: bool
    num_position_embeddings: Size | None = None
    interpolate_pos_encoding: bool = False
    class_token: bool = False
    pre_norm: bool = False
    post_norm: bool = False
    rope_theta: Base | None
    spatial_merge_size: Size
    window_size: Size | None = None
    fullatt_block_indexes: list[Index] | None = None
    deepstack_visual_indexes: list[Index] = Field(default=[])
    processor: Processor
    dtype: Dtype

    @model_validator(mode="after")
    def _layers_are_there(self) -> Self:
        if (self.window_size is None) != (self.fullatt_block_indexes is None):
            message = "window_size and fullatt_block_indexes belong together: windows, and the layers without them"
            raise FieldError(message, "window_size" if self.fullatt_block_indexes is None else "fullatt_block_indexes")
        for key in ("fullatt_block_indexes", "deepstack_visual_indexes"):
            indexes = getattr(self, key) or []
            for place, index in enumerate(indexes):
                if index >= self.num_hidden_layers:
                    message = f"no layer {index}: num_hidden_layers is {self.num_hidden_layers}"
                    raise FieldError(message, (key, place), "num_hidden_layers")
            if len(set(indexes)) < len(indexes):
                raise FieldError(f"{key} names a layer twice", key)
        return self

    @model_validator(mode="after")
    def _positions_fit(self) -> Self:
        if self.rope_theta is not None:
            check_fours(self.head_dim, "head_dim", "head_dim", "rope_theta")
        fixed, merge = isinstance(self.processor, FixedSize), self.spatial_merge_size
        unit = self.patch_size * merge
        if self.window_size is not None and self.window_size < unit:
            raise FieldError(f"window_size {self.window_size} holds no merge window of {unit} pixels", "window_size")
        if self.num_position_embeddings is None:
            if self.interpolate_pos_encoding:
                raise FieldError("interpolate_pos_encoding: there are no positions", "interpolate_pos_encoding")
        elif not self.interpolate_pos_encoding and not fixed:
            message = "pictures of any size need interpolate_pos_encoding"
            raise FieldError(message, "num_position_embeddings", ("processor", "kind"))
        self._check_class_token()
        if isinstance(self.processor, FixedSize):
            self._check_fixed(self.processor.image_size // self.patch_size)
        return self

    def _check_class_token(self) -> None:
        """Raises FieldError for a class token that no public tower has."""
        fixed = isinstance(self.processor, FixedSize) and not self.interpolate_pos_encoding
        if self.class_token and (not fixed or self.rope_theta is not None):
            message = "class_token: only pictures of one size have one, with learned positions of their own"
            raise FieldError(message, "class_token")
        for key in ("class_token", "post_norm"):
            if getattr(self, key) and self.deepstack_visual_indexes:
                raise FieldError(f"{key} beside features of earlier layers", key, "deepstack_visual_indexes")

    def _check_fixed(self, side: int) -> None:
        """Raises FieldError for a square of so many patches a side that can't be merged or has no positions."""
        if not side or side % self.spatial_merge_size:
            message = f"{side} patches a side do not divide into spatial_merge_size {self.spatial_merge_size}"
            raise FieldError(message, ("processor", "image_size"), "spatial_merge_size")
        rows, table = side**2 + self.class_token, self.num_position_embeddings
        if table is not None and table != rows and not self.interpolate_pos_encoding:
            message = f"num_position_embeddings {table} for {rows} rows of a picture"
            raise FieldError(message, "num_position_embeddings", ("processor", "image_size"))

    @property
    def output_dim(self) -> Dim:
        """Features of one patch as the projector gets them [elements]."""
        return self.dim("hidden_size")

    @property
    def text_path(self) -> str:
        """Where the checkpoint keeps the decoder."""
        return self.text_prefix

    @property
    def earlier(self) -> int:
        """How many layers before the last one hand on their features too."""
        return len(self.deepstack_visual_indexes)

    @property
    def token_side(self) -> int:
        """Side of the square that one backbone token stands for [pixels]."""
        return self.patch_size * self.spatial_merge_size

    @property
    def group_frames(self) -> int:
        """Frames that make one layer of patches."""
        return self.temporal_patch_size

    # -- from pixels to patches -----------------------------------------------------------------------------------

    def groups(self, workload: Workload) -> list[Group]:
        """The pictures and layers of videos of one sequence; none in decode, where they are cached context.

        A video's frames are padded to a multiple of `temporal_patch_size`. Raises InputError for what the processor
        refuses.
        """
        if workload.phase == "decode":
            return []
        patch, temporal = self.patch_size, self.temporal_patch_size
        factor = patch * self.spatial_merge_size
        groups = [Group(*group) for group in workload.groups]
        for picture in workload.images:
            height, width = self.processor.image(*picture, factor)
            groups.append(Group(1, height // patch, width // patch))
        for frames, *sides in workload.videos:
            height, width = self.processor.video(frames, sides[0], sides[1], factor, temporal)
            groups += [Group(1, height // patch, width // patch)] * -(-frames // temporal)
        return groups

    def tokens(self, groups: list[Group]) -> int:
        """Backbone tokens of the groups: one a merge window."""
        return sum(group.patches for group in groups) // self.spatial_merge_size**2

    def pairs(self, groups: list[Group], *, windows: bool) -> int:
        """Pairs of rows that attend to each other, class tokens among them.

        A window is `window_size` cut down to whole merge windows; the last one of a row or column may be smaller
        (transformers, vision_utils.py, get_vision_window_index).
        """
        if not windows or self.window_size is None:
            return sum((group.patches + self.class_token) ** 2 for group in groups)
        merge = self.spatial_merge_size
        side = self.window_size // merge // self.patch_size * merge
        return sum(_squares(group.h, side) * _squares(group.w, side) for group in groups)

    # -- the forward pass -----------------------------------------------------------------------------------------

    def forward(self, tape: Tape) -> Features:
        """Pixels in; patches grouped by merge window, not yet mixed."""
        groups = self.groups(tape.workload)
        batch = sequences(tape)
        patches, tokens = sum(group.patches for group in groups), self.tokens(groups)
        merged = (batch, Dim("vision_tokens", tokens))
        rows = (batch, Dim("patches", patches))
        joined = (batch, Dim("patches_and_class", patches + len(groups))) if self.class_token else rows
        with tape.scope(self.prefix, purposes=self._sentences()):
            x = self._embed(tape, rows, joined, merged)
            features = self._blocks(tape, x, batch, groups)
            if self.post_norm or self.class_token:
                features = [self._last(tape, features[0], rows)]
        window = (Dim("spatial_merge_size²", self.spatial_merge_size**2), self.output_dim)
        last, *earlier = (each.view(window, merged) for each in features)
        tape.vision_tokens += tokens
        return Features(last, tuple(earlier), shuffled=self.window_size is not None)

    def _sentences(self) -> dict[str, str]:
        """The purposes by the names of this checkpoint."""
        names, block = NAMES[self.names], self._shape().names
        said = dict.fromkeys(block.qkv, self.purposes["qkv"]) | dict.fromkeys(block.fc1, self.purposes["fc1"])
        for key in ("norm1", "norm2", "out", "fc2", "act"):
            said[getattr(block, key)] = self.purposes[key]
        said |= {names.patches: self.purposes["patches"], names.positions: self.purposes["positions"]}
        return {**self.purposes, **said, f"{block.attn}core": self.purposes["core"]}

    def _embed(self, tape: Tape, rows: tuple[Dim, Dim], joined: tuple[Dim, Dim], merged: tuple[Dim, Dim]) -> Tensor:
        """Patches and positions: [patches, and class tokens] x [hidden]."""
        names, hidden = NAMES[self.names], self.output_dim
        sides = (self.dim("patch_size"), self.dim("patch_size"))
        kernel = (self.dim("temporal_patch_size"), *sides) if self.temporal_patch_size > 1 else sides
        module = names.patches.partition(".")[0]
        with tape.segment(module, "vision", scope="", dtype=self.dtype):
            channels, bias = self.dim("in_channels"), self.patch_embed_bias
            x = tape.conv_patch(rows, names.patches, channels, kernel, hidden, role="vision", bias=bias)
            if self.class_token:
                with tape.scope(module):
                    x = tape.prepend(x, "class_embedding", joined, role="vision", site="patch_embed")
            if self.num_position_embeddings is not None:
                table, taps = (self.dim("num_position_embeddings"), hidden), 4 * self.interpolate_pos_encoding
                x = tape.add_table(x, names.positions, table, role="vision", site="patch_embed", taps=taps)
            if self.pre_norm:
                x = tape.norm(x, "pre_layrnorm", kind=self.norm, role="vision", site="vision_norm")
            if self.window_size is not None:
                x = tape.reorder(x, "window_index", merged, site="patch_embed")
        return x

    def _blocks(self, tape: Tape, x: Tensor, batch: Dim, groups: list[Group]) -> list[Tensor]:
        """The last block's features, then those of the layers that hand theirs on."""
        every = range(self.num_hidden_layers)
        full = every if self.fullatt_block_indexes is None else sorted(self.fullatt_block_indexes)
        for windows, layers in ((True, tuple(i for i in every if i not in full)), (False, tuple(full))):
            if layers:
                scored = (Term(2, (batch, Dim("patch_pairs", self.pairs(groups, windows=windows)))),)
                with tape.segment(NAMES[self.names].blocks, "vision", x, layers, dtype=self.dtype) as inner:
                    x = transformer_block(tape, inner, self._shape(), scored)
        return [x] * (1 + self.earlier)

    def _shape(self) -> BlockShape:
        names = NAMES[self.names]
        return BlockShape(
            names=names.gated if self.gated else names.block,
            heads=self.dim("num_attention_heads", "vision_heads"),
            head_dim=self.dim("head_dim"),
            width=self.dim("intermediate_size", "vision_ffn"),
            norm=self.norm,
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            rotary=self.rope_theta is not None,
            between=int(self.hidden_act == "quick_gelu"),
        )

    def _last(self, tape: Tape, x: Tensor, rows: tuple[Dim, Dim]) -> Tensor:
        """The last norm, and the patches without their class tokens."""
        name = "post_layernorm" if self.post_norm else "patches"
        with tape.segment(name, "vision", x, scope="", dtype=self.dtype) as inner:
            if self.post_norm:
                inner = tape.norm(inner, name, kind=self.norm, role="vision", site="vision_norm")
            if not self.class_token:
                return inner
            return tape.copy((inner,), "patches", inner.features, site="vision_merge", rows=rows)


def _squares(length: int, side: int) -> int:
    """Sum of the squares of the pieces when a length is cut every `side`."""
    whole, rest = divmod(length, side)
    return whole * side**2 + rest**2
