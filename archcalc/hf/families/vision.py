"""Models with a vision tower: Qwen-VL, Qwen3.5, Kimi K2.5 and K3. Sources: transformers 5.24, models/TYPE/; Kimi K3 has
no public class: its released header. What a processor does with pixels stands in preprocessor_config.json, not in
config.json: it is the release's, and said so."""

from __future__ import annotations

from archcalc.hf import inverses, rules
from archcalc.hf.config import Config, Said, show
from archcalc.hf.dialect import Dialect, Fixed, Key, Multimodal, Must, Rule, Table
from archcalc.hf.families.common import BACKBONE, DENSE, MOE, SLIDING
from archcalc.hf.families.dense import QWEN2_ATTENTION, QWEN3_ATTENTION, WINDOWS
from archcalc.hf.families.hybrid import QWEN3_5, QWEN3_5_MOE
from archcalc.hf.families.latent import DEEPSEEK_V3, KIMI_K3_TEXT
from archcalc.hf.patterns import layers, sparse_step
from archcalc.hf.sections import sectioned

# -- text models that only stand inside others ------------------------------------------------------------------------

OWN_HEAD_DIM: Table = {**QWEN2_ATTENTION, "head_dim": Rule(rules.even_head_dim)}
VL_BACKBONE: Table = {**BACKBONE, "rope_scaling": Rule(sectioned(rules.rope_scaling), inverses.multimodal_rope)}
QWEN2_VL_TEXT = Dialect(
    model_type="qwen2_vl_text",
    backbone=VL_BACKBONE,
    attention={"full": OWN_HEAD_DIM, "sliding": {**OWN_HEAD_DIM, **SLIDING}},
    ffn={"dense": DENSE},
    layers=layers(WINDOWS, "dense"),
    must={"attention_bias": (True,), "qkv_bias": (True,)},
)
QWEN2_5_VL_TEXT = QWEN2_VL_TEXT._replace(model_type="qwen2_5_vl_text")
QWEN3_VL_TEXT = Dialect(
    model_type="qwen3_vl_text",
    backbone=VL_BACKBONE,
    attention={"full": QWEN3_ATTENTION},
    ffn={"dense": DENSE},
    layers=layers("full", "dense"),
    must={"use_sliding_window": (False,)},
)
QWEN3_VL_MOE_TEXT = Dialect(
    model_type="qwen3_vl_moe_text",
    backbone=VL_BACKBONE,
    attention={"full": QWEN3_ATTENTION},
    ffn={"dense": DENSE, "moe": {**MOE, "norm_topk_prob": Fixed(True, "always")}},
    layers=layers("full", sparse_step),
    must={"use_sliding_window": (False,), "norm_topk_prob": (True,)},
)

VISION_TEXT = (QWEN2_VL_TEXT, QWEN2_5_VL_TEXT, QWEN3_VL_TEXT, QWEN3_VL_MOE_TEXT)

# -- towers -----------------------------------------------------------------------------------------------------------


def _product(*parts: str | int) -> Rule:
    """A size that is a product of keys and numbers."""

    def read(config: Config) -> Said:
        total = 1
        for part in parts:
            total *= part if isinstance(part, int) else config.integer(part, least=1)
        return Said(total, (), " · ".join(map(str, parts)))

    return Rule(read)


def _merged(width: str) -> Rule:
    """Features of one merge window."""

    def read(config: Config) -> Said:
        side = config.integer("spatial_merge_size", least=1)
        return Said(config.integer(width, least=1) * side * side, (), f"{width} · spatial_merge_size²")

    return Rule(read)


def _head_dim(width: str) -> Rule:
    def read(config: Config) -> Said:
        size, heads = config.integer(width, least=1), config.integer("num_heads", least=1)
        if size % heads:
            raise config.error(f"{width} {size} does not divide into num_heads {heads}", width)
        return Said(size // heads, (), f"{width} / num_heads")

    return Rule(read)


def _expanded(config: Config) -> Said:
    """Qwen2-VL: `embed_dim` times `mlp_ratio`."""
    ratio, width = config.value("mlp_ratio"), config.integer("embed_dim", least=1)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise config.error("mlp_ratio must be a positive number", "mlp_ratio")
    return Said(int(width * ratio), (), "embed_dim · mlp_ratio")


def _text_width(config: Config) -> Said:
    """The hidden size of the text model that the tower stands beside."""
    top = config.outer or config
    return Said(top.data["text_config"].get("hidden_size"), ("text_config", "hidden_size"), "text_config.hidden_size")


def _normed_width(config: Config) -> Said:
    """Kimi K2.5: features that the projector normalises: the tower's, which `projection_hidden_size` must say too."""
    said = rules.released("mm_hidden_size", "hidden_size").read(config)
    top = config.outer or config
    normed = top.value("projection_hidden_size")
    if said is None or normed != said.value:
        message = f"projection_hidden_size is {show(normed)}, and the tower's width another"
        raise top.error(message, "projection_hidden_size")
    if "mm_hidden_size" in config.data:  # the file says it after all
        top.made.pop("projection_hidden_size", None)
    return said


PIXELS_2: Table = {
    "kind": Fixed("smart_resize"),
    "min_pixels": Fixed(3136, "preprocessor_config.json of the release"),
    "max_pixels": Fixed(12845056, "preprocessor_config.json of the release"),
    "video_min_pixels": Fixed(100352, "default of Qwen2VLVideoProcessor"),
    "video_max_pixels": Fixed(602112, "default of Qwen2VLVideoProcessor"),
    "video_pixels": Fixed("per_frame"),
}
PIXELS_3: Table = {
    "kind": Fixed("smart_resize"),
    "min_pixels": Fixed(65536, "preprocessor_config.json of the release"),
    "max_pixels": Fixed(16777216, "preprocessor_config.json of the release"),
    "video_min_pixels": Fixed(4096, "video_preprocessor_config.json of the release"),
    "video_max_pixels": Fixed(25165824, "video_preprocessor_config.json of the release"),
    "video_pixels": Fixed("per_video"),
}

QWEN_VIT: Table = {
    "kind": Fixed("vit"),
    "names": Fixed("qwen2_vl"),
    "prefix": Fixed("visual"),
    "text_prefix": Fixed("model"),
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "head_dim": _head_dim("embed_dim"),
    "intermediate_size": Rule(_expanded, inverses.mlp_ratio),
    "hidden_act": "hidden_act",
    "gated": Fixed(False),
    "attention_bias": Fixed(True),
    "mlp_bias": Fixed(True),
    "norm": Fixed("layer"),
    "norm_eps": Fixed(1e-6),
    "in_channels": "in_channels",
    "patch_size": "patch_size",
    "temporal_patch_size": "temporal_patch_size",
    "patch_embed_bias": Fixed(False),
    "rope_theta": Fixed(10000.0),
    "spatial_merge_size": "spatial_merge_size",
    "processor": PIXELS_2,
    "dtype": Rule(rules.dtype),
}
QWEN_MERGER: Table = {
    "kind": Fixed("merger"),
    "names": Fixed("qwen2_vl"),
    "prefix": Fixed("visual.merger"),
    "mm_hidden_size": "embed_dim",
    "intermediate_size": _merged("embed_dim"),
    "text_hidden_size": "hidden_size",
    "norm": Fixed("layer"),
    "projector_hidden_act": Fixed("gelu"),
    "projector_ln_eps": Fixed(1e-6),
    "projector_bias": Fixed(True),
    "dtype": Rule(rules.dtype),
}

QWEN2_5_VIT: Table = {
    **QWEN_VIT,
    "hidden_size": "hidden_size",
    "head_dim": _head_dim("hidden_size"),
    "intermediate_size": "intermediate_size",
    "gated": Fixed(True),
    "norm": Fixed("rms"),
    "window_size": "window_size",
    "fullatt_block_indexes": "fullatt_block_indexes",
}
QWEN2_5_MERGER: Table = {
    **QWEN_MERGER,
    "mm_hidden_size": "hidden_size",
    "intermediate_size": _merged("hidden_size"),
    "text_hidden_size": "out_hidden_size",
    "norm": Fixed("rms"),
}

QWEN3_VIT: Table = {
    **QWEN_VIT,
    "names": Fixed("qwen3_vl"),
    "prefix": Fixed("model.visual"),
    "text_prefix": Fixed("model.language_model"),
    "hidden_size": "hidden_size",
    "head_dim": _head_dim("hidden_size"),
    "intermediate_size": "intermediate_size",
    "patch_embed_bias": Fixed(True),
    "num_position_embeddings": "num_position_embeddings",
    "interpolate_pos_encoding": Fixed(True),
    "processor": PIXELS_3,
}
QWEN3_MERGER: Table = {
    **QWEN2_5_MERGER,
    "names": Fixed("qwen3_vl"),
    "prefix": Fixed("model.visual.merger"),
    "norm": Fixed("layer"),
}

MOON_LIMITS: Table = {
    "in_patch_limit": Fixed(16384, "preprocessor_config.json of Kimi K2.5"),
    "in_patch_limit_each_frame": Fixed(4096, "preprocessor_config.json of Kimi K2.5"),
    "patch_limit_on_one_side": Fixed(512, "preprocessor_config.json of Kimi K2.5"),
    "temporal_merge_kernel_size": Fixed(4, "preprocessor_config.json of Kimi K2.5"),
}
MOONVIT: Table = {
    "kind": Fixed("moonvit3d"),
    "vt_hidden_size": "vt_hidden_size",
    "vt_num_hidden_layers": "vt_num_hidden_layers",
    "vt_num_attention_heads": "vt_num_attention_heads",
    "vt_intermediate_size": "vt_intermediate_size",
    "in_channels": Fixed(3),
    "patch_size": "patch_size",
    "init_pos_emb_height": "init_pos_emb_height",
    "init_pos_emb_width": "init_pos_emb_width",
    "init_pos_emb_time": "init_pos_emb_time",
    "pos_emb_type": Key("pos_emb_type", otherwise="divided_fixed"),
    "merge_kernel_size": "merge_kernel_size",
    "merge_type": Key("merge_type", otherwise="sd2_tpool"),
    "video_attn_type": Key("video_attn_type", otherwise="spatial_temporal"),
    "layer_norm_eps": Fixed(1e-5),
    "rope_theta": Fixed(10000.0),
    "dtype": Rule(rules.dtype),
    **MOON_LIMITS,
}
MOON_MERGER: Table = {
    "kind": Fixed("patch_merger"),
    "mm_hidden_size": "mm_hidden_size",
    "text_hidden_size": "text_hidden_size",
    "projector_hidden_act": "projector_hidden_act",
    "projector_ln_eps": "projector_ln_eps",
    "use_postshuffle_norm": Fixed(False),
    "dtype": Rule(rules.dtype),
}
K3_VIT: Table = {
    **MOONVIT,
    "qkv_hidden_size": "qkv_hidden_size",
    "norm_type": "norm_type",
    "attn_bias": "attn_bias",
    "linear_bias": "linear_bias",
    "patch_embed_proj_bias": "patch_embed_proj_bias",
}
QWEN_VISION_MUST: Must = {"deepstack_visual_indexes": ([],)}
OLD_NAMES: Must = {
    "in_chans": lambda config: config.value("in_channels"),
    "spatial_patch_size": lambda config: config.value("patch_size"),
}
"""Keys of Qwen2-VL's released towers that the class does not read: it takes those of today's spelling."""
TIME = frozenset({"tokens_per_second", "fps"})

K25_TOWER: Table = {
    "vt_hidden_size": rules.released("vt_hidden_size", "hidden_size"),
    "vt_num_hidden_layers": rules.released("vt_num_hidden_layers", "num_hidden_layers"),
    "vt_num_attention_heads": rules.released("vt_num_attention_heads", "num_attention_heads"),
    "vt_intermediate_size": rules.released("vt_intermediate_size", "intermediate_size"),
    "init_pos_emb_height": rules.released("init_pos_emb_height", "pos_emb_height"),
    "init_pos_emb_width": rules.released("init_pos_emb_width", "pos_emb_width"),
    "init_pos_emb_time": rules.released("init_pos_emb_time", "pos_emb_time"),
}
"""The release's keys and the class's. The class reads its own alone, whatever the release's say."""


VISION = (
    Multimodal(
        model_type="qwen2_vl",
        text=QWEN2_VL_TEXT,
        vision=QWEN_VIT,
        projector=QWEN_MERGER,
        vision_type="qwen2_vl_vision",
        ties="either",
        flat=True,
        vision_must=OLD_NAMES,
        vision_harmless=TIME,
    ),
    Multimodal(
        model_type="qwen2_5_vl",
        text=QWEN2_5_VL_TEXT,
        vision=QWEN2_5_VIT,
        projector=QWEN2_5_MERGER,
        vision_type="qwen2_5_vl_vision",
        ties="either",
        flat=True,
        vision_must=OLD_NAMES,
        vision_harmless=TIME,
    ),
    Multimodal(
        model_type="qwen3_vl",
        text=QWEN3_VL_TEXT,
        vision={**QWEN3_VIT, "deepstack_visual_indexes": "deepstack_visual_indexes"},
        projector=QWEN3_MERGER,
        vision_type="qwen3_vl_vision",
    ),
    Multimodal(
        model_type="qwen3_vl_moe",
        text=QWEN3_VL_MOE_TEXT,
        vision={**QWEN3_VIT, "deepstack_visual_indexes": "deepstack_visual_indexes"},
        projector=QWEN3_MERGER,
        vision_type="qwen3_vl_moe_vision",
    ),
    Multimodal(
        model_type="qwen3_5",
        text=QWEN3_5,
        vision=QWEN3_VIT,
        projector=QWEN3_MERGER,
        vision_type="qwen3_5_vision",
        vision_must=QWEN_VISION_MUST,
    ),
    Multimodal(
        model_type="qwen3_5_moe",
        text=QWEN3_5_MOE,
        vision=QWEN3_VIT,
        projector=QWEN3_MERGER,
        vision_type="qwen3_5_moe_vision",
        vision_must=QWEN_VISION_MUST,
    ),
    Multimodal(
        model_type="kimi_k25",
        text=DEEPSEEK_V3,
        vision={**MOONVIT, **K25_TOWER},
        projector={
            **MOON_MERGER,
            "mm_hidden_size": Rule(_normed_width, inverses.outer("projection_hidden_size")),
            "text_hidden_size": Rule(_text_width),
            "projector_hidden_act": Fixed("gelu"),
            "projector_ln_eps": Fixed(1e-5),
        },
        vision_type="kimi_k25_vision",
        vision_must={
            "mm_projector_type": ("patchmerger",),
            "text_hidden_size": lambda config: _text_width(config).value,
            "projector_hidden_act": ("gelu",),
            "projector_ln_eps": (1e-5,),
        },
        harmless=frozenset({"use_unified_vision_chunk"}),
    ),
    Multimodal(
        model_type="kimi_k3",
        text=KIMI_K3_TEXT,
        vision=K3_VIT,
        projector={**MOON_MERGER, "mm_projector_type": "mm_projector_type"},
        vision_type="",
        vision_must={
            "activation_func": ("gelu_pytorch_tanh",),
            "mlp_type": ("mlp2",),
            "pos_emb_interpolation_mode": ("bilinear",),
        },
        proof=KIMI_K3_TEXT.proof,
    ),
)
