"""Methods that pack integers, and compressed-tensors, which says all of it in groups of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archcalc.errors import show_value
from archcalc.hf.quant_methods import Reading, Settings, Store
from archcalc.hf.quant_names import NameList, NameMap

# ------------------------------------------------------------------------------------------- compressed-tensors


def compressed_tensors(s: Settings) -> Reading:
    """Groups of targets (names, `re:` expressions, or Linear), each with its format (quantization/quant_config.py)."""
    s.must("quantization_status", "compressed")
    given = s.get("config_groups", default={})
    if not isinstance(given, Mapping):
        raise s.error("config_groups", "this is no mapping")
    overall = s.get("format")
    groups = [_group(s.inner(group, f"config_groups.{name}"), overall) for name, group in given.items()]
    skipped = NameList(s.names("ignore"), f"{s.where}.ignore", "exact")
    cache = s.get("kv_cache_scheme")
    if s.inner(s.get("sparsity_config", default={}), "sparsity_config").get("format", default="dense") != "dense":
        raise s.error("sparsity_config", "sparse formats are not known")
    s.done("quant_method version global_compression_ratio")
    taken = tuple((targets, scheme) for targets, scheme in groups if scheme is not None)
    named = [(targets, scheme) for targets, scheme in taken if targets is not None]
    classes = [(targets, scheme) for targets, scheme in taken if targets is None]  # a name goes before a class
    notes = ("Scales of a quantized cache (k_scale, v_scale) are not counted.",) if cache else ()
    return Reading(groups=(*named, *classes), skipped=skipped, head=True, notes=notes)


def _group(s: Settings, overall: str | None) -> tuple[NameList | None, Store | None]:
    """The targets of a group, None for linears, and its scheme, None where no weights are quantized."""
    targets = s.names("targets")
    weights, inputs = s.get("weights"), s.get("input_activations")
    form = s.get("format", default=overall)
    scheme = None
    if weights is not None:
        args = s.inner(weights, "weights")
        scheme = _scheme(args, form, s.inner(inputs, "input_activations") if inputs else None)
        args.done("observer observer_kwargs dynamic zp_dtype")
    s.done("output_activations")
    if "Linear" in targets:
        return None, scheme
    return NameList(targets, f"{s.where}.targets", "exact"), scheme


def _scheme(w: Settings, form: object, inputs: Settings | None) -> Store:
    """The scheme of a group's weights in a format."""
    bits, kind, strategy = w.get("num_bits", default=8), w.get("type", default="int"), w.get("strategy")
    size, blocks, symmetric = w.get("group_size"), w.get("block_structure"), w.get("symmetric", default=True)
    size = None if size == -1 else size
    if w.get("actorder") == "group":
        raise w.error("actorder", "a group index beside the weights is not known")
    scale = str(w.get("scale_dtype", default=w.dtype)).removeprefix("torch.")
    static = inputs is not None and inputs.data.get("dynamic") is not True  # `local` keeps its scale of a whole tensor
    what = (form, kind, bits)
    if form == "pack-quantized" and kind == "int" and bits in (4, 8):
        packed: Store = {"scheme": form, "num_bits": bits, "group_size": size, "scale_dtype": scale}
        return packed if symmetric else {**packed, "symmetric": False}
    if what in (("nvfp4-pack-quantized", "float", 4), ("mxfp4-pack-quantized", "float", 4)):
        return {"scheme": "mxfp4-pack-quantized"} if size == 32 else _nvfp4(size, static)
    if bits == 8 and what[:2] in (("float-quantized", "float"), ("naive-quantized", "float"), ("int-quantized", "int")):
        if strategy == "block" and kind == "float":
            return {"scheme": "fp8-block", "block_size": blocks, "scale_dtype": scale}
        if strategy in ("channel", "tensor"):
            wide: Store = {"scheme": f"{kind}-quantized", "strategy": strategy, "scale_dtype": scale}
            return {**wide, "input_scale": True} if static else wide
        raise w.error("strategy", f"{show_value(strategy)} is not known in {form}")
    raise w.error("num_bits", f"{show_value(bits)} bits of type {kind} in format {show_value(form)} are not known")


def _nvfp4(size: object, static: bool) -> Store:
    scheme: Store = {"scheme": "nvfp4"}
    if size not in (None, 16):
        scheme["group_size"] = size
    return scheme if static else {**scheme, "input_scale": False}


# ------------------------------------------------------------------------------------------- packed integers


GPTQ_TRAINED = (
    "quant_method desc_act sym damp_percent static_groups true_sequential model_name_or_path model_file_base_name"
    " dataset meta tokenizer batch_size block_name_to_quantize cache_block_outputs exllama_config max_input_length"
    " model_seqlen module_name_preceding_first_block pad_token_id use_cuda_fp16 use_exllama disable_exllama backend"
    " act_group_aware hyb_act"
)
"""Keys of GPTQ that say how weights were found, or which kernel reads them; transformers 5 writes them of AWQ too."""


def awq(s: Settings) -> Reading:
    """AutoAWQ's `gemm`; other layouts are not known."""
    s.must("version", "gemm", "GEMM")
    s.must("format", "gemm", "GEMM")
    if s.get("backend") == "llm-awq":
        raise s.error("backend", "the layout of llm-awq is not known")
    scheme = _words(s, "awq", ("bits", "w_bit"), ("group_size", "q_group_size"))
    skipped = NameList(s.names("modules_to_not_convert"), f"{s.where}.modules_to_not_convert", "substring")
    s.done(f"{GPTQ_TRAINED} zero_point do_fuse fuse_max_seq_len modules_to_fuse")
    return Reading(groups=((None, scheme),), skipped=skipped, backbone=True)


def gptq(s: Settings) -> Reading:
    """AutoGPTQ's layout. Modules of one's own choice are not known."""
    s.must("checkpoint_format", "gptq", "gptq_v2")
    s.must("format", "gptq", "gptq_v2")
    s.must("pack_dtype", "int32")
    scheme, head = _words(s, "gptq", ("bits",), ("group_size",)), s.get("lm_head") is True
    s.done(GPTQ_TRAINED)
    return Reading(groups=((None, scheme),), backbone=True, head=head)


AUTO_ROUND_TRAINED = (
    "quant_method sym data_type autoround_version batch_size low_gpu_mem_usage iters nsamples seqlen lr minmax_lr"
    " scale_dtype amp enable_minmax_tuning enable_norm_bias_tuning enable_quanted_input gradient_accumulate_steps"
    " dataset block_name_to_quantize to_quant_block_names quant_block_list backend act_bits"
)


def auto_round(s: Settings) -> Reading:
    """AutoRound in GPTQ's or AWQ's layout, for the layers of the backbone."""
    packing = str(s.get("packing_format", default="auto_round:auto_gptq"))
    name = packing.removeprefix("auto_round:").removeprefix("auto_")
    if name not in ("gptq", "awq"):
        raise s.error("packing_format", f"{packing} is not known")
    s.must("data_type", "int")
    s.must("act_bits", 16, 32)
    scheme = _words(s, name, ("bits",), ("group_size",))
    s.done(AUTO_ROUND_TRAINED)
    return Reading(groups=((None, scheme),), backbone=True)


def _words(s: Settings, scheme: str, bits: tuple[str, ...], group: tuple[str, ...]) -> Store:
    """A scheme of bits and groups; -1 is one group."""
    width, size = s.get(*bits), s.get(*group)
    for name, value in ((bits[0], width), (group[0], size)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise s.error(name, "a whole number is missing here")
    return {"scheme": scheme, "num_bits": width, "group_size": None if size == -1 else size, "scale_dtype": s.dtype}


def bitsandbytes(s: Settings) -> Reading:
    """bitsandbytes' nf4, fp4 and int8: every linear but what is skipped; without a list, the head is
    (transformers, quantizers/base.py, get_modules_to_not_convert)."""
    four, eight = s.get("load_in_4bit", "_load_in_4bit"), s.get("load_in_8bit", "_load_in_8bit")
    kind = s.get("bnb_4bit_quant_type", default="fp4")
    double = s.get("bnb_4bit_use_double_quant", default=False)
    s.must("llm_int8_has_fp16_weight", False)
    skipped = NameList(s.names("llm_int8_skip_modules"), f"{s.where}.llm_int8_skip_modules", "boundary")
    s.done(
        "quant_method bnb_4bit_compute_dtype bnb_4bit_quant_storage llm_int8_threshold llm_int8_enable_fp32_cpu_offload"
        " _load_in_4bit _load_in_8bit load_in_4bit load_in_8bit"
    )
    if bool(four) == bool(eight):
        raise s.error("load_in_4bit", "one of load_in_4bit and load_in_8bit has to be true")
    scheme: Store = {"scheme": "bitsandbytes-int8"}
    if four:
        scheme = {"scheme": "bitsandbytes-4bit", "quant_type": kind, "dtype": s.dtype}
        scheme |= {"double_quant": True} if double else {}
    return Reading(groups=((None, scheme),), skipped=skipped, head=s.get("llm_int8_skip_modules") is not None)


def mlx(s: Settings) -> Reading:
    """MLX's affine groups: embeddings and routers too, but for modules with settings of their own, or false."""
    s.must("mode", "affine")
    scheme = _words(s, "mlx-affine", ("bits",), ("group_size",))
    named: dict[str, Any] = {}
    for name, value in s.data.items():
        if isinstance(value, Mapping):
            inner = s.inner(value, name)
            inner.must("mode", "affine")
            named[name] = _words(inner, "mlx-affine", ("bits",), ("group_size",))
            inner.done()
        elif isinstance(value, bool):
            named[name] = scheme if value else None
    s.done(" ".join(named))
    return Reading(
        groups=((None, scheme),), named=NameMap(named, s.where), head=True, embeddings=True, backbone=True, lenient=True
    )
