"""Every storage scheme tensor by tensor, and releases to the byte from the tensors of one matrix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from archcalc.documents.weights import weights
from archcalc.errors import InputError, SpecError
from archcalc.files.loader import parse
from archcalc.files.model import Spec
from archcalc.files.schemes import AnyScheme, Quantized, Scheme
from archcalc.serving.deployment import Deployment, held_weights
from archcalc.tape import Dim, Stored, Weight
from tests.calc.test_weights import CHECKPOINTS, matrix
from tests.support import answered, dumped, spec_of, tiny, written

SCHEMES: TypeAdapter[AnyScheme] = TypeAdapter(Scheme)


def stored(rows: int, columns: int, **scheme: Any) -> tuple[Stored, ...]:
    return SCHEMES.validate_python(scheme).stored(matrix(rows, columns))


def nbytes(rows: int, columns: int, **scheme: Any) -> int:
    return sum(t.nbytes for t in stored(rows, columns, **scheme))


def shapes(rows: int, columns: int, **scheme: Any) -> list[tuple[Any, ...]]:
    return [tuple(t[:3]) for t in stored(rows, columns, **scheme)]


# -------------------------------------------------------------------------------------- tensors, o = 96, i = 256


@pytest.mark.parametrize(
    ("scheme", "tensors"),
    [
        (
            {"scheme": "fp8-block", "block_size": [128, 128], "scale_dtype": "float8_e8m0fnu"},
            [("weight", "float8_e4m3fn", (96, 256)), ("weight_scale_inv", "float8_e8m0fnu", (1, 2))],
        ),
        (
            {"scheme": "float-quantized", "strategy": "channel", "scale_dtype": "bfloat16"},
            [("weight", "float8_e4m3fn", (96, 256)), ("weight_scale", "bfloat16", (96, 1))],
        ),
        (
            {"scheme": "float-quantized", "strategy": "tensor", "scale_dtype": "float32", "input_scale": True},
            [
                ("weight", "float8_e4m3fn", (96, 256)),
                ("weight_scale", "float32", (1,)),
                ("input_scale", "float32", (1,)),
            ],
        ),
        (
            {"scheme": "int-quantized", "strategy": "channel", "scale_dtype": "bfloat16"},
            [("weight", "int8", (96, 256)), ("weight_scale", "bfloat16", (96, 1))],
        ),
        ({"scheme": "mxfp8"}, [("weight", "float8_e4m3fn", (96, 256)), ("weight_scale_inv", "uint8", (96, 8))]),
        ({"scheme": "mxfp4"}, [("weight_blocks", "uint8", (96, 8, 16)), ("weight_scales", "uint8", (96, 8))]),
        (
            {"scheme": "mxfp4-pack-quantized"},
            [("weight_packed", "uint8", (96, 128)), ("weight_scale", "uint8", (96, 8))],
        ),
        (
            {"scheme": "nvfp4"},
            [
                ("weight", "uint8", (96, 128)),
                ("weight_scale", "float8_e4m3fn", (96, 16)),
                ("weight_scale_2", "float32", ()),
                ("input_scale", "float32", ()),
            ],
        ),
        (
            {
                "scheme": "pack-quantized",
                "num_bits": 4,
                "group_size": 128,
                "scale_dtype": "bfloat16",
                "symmetric": False,
            },
            [
                ("weight_packed", "int32", (96, 32)),
                ("weight_scale", "bfloat16", (96, 2)),
                ("weight_zero_point", "int32", (12, 2)),  # eight outputs a word
                ("weight_shape", "int32", (2,)),
            ],
        ),
        (
            {"scheme": "pack-quantized", "num_bits": 8, "group_size": None, "scale_dtype": "bfloat16"},
            [
                ("weight_packed", "int32", (96, 64)),
                ("weight_scale", "bfloat16", (96, 1)),
                ("weight_shape", "int32", (2,)),
            ],
        ),
        (
            {"scheme": "awq", "num_bits": 4, "group_size": 128, "scale_dtype": "float16"},
            [("qweight", "int32", (256, 12)), ("qzeros", "int32", (2, 12)), ("scales", "float16", (2, 96))],
        ),
        (
            {"scheme": "gptq", "num_bits": 4, "group_size": 128, "scale_dtype": "float16"},
            [
                ("qweight", "int32", (32, 96)),
                ("qzeros", "int32", (2, 12)),
                ("scales", "float16", (2, 96)),
                ("g_idx", "int32", (256,)),
            ],
        ),
        (
            {"scheme": "mlx-affine", "num_bits": 3, "group_size": 64, "scale_dtype": "bfloat16"},
            [("weight", "uint32", (96, 24)), ("scales", "bfloat16", (96, 4)), ("biases", "bfloat16", (96, 4))],
        ),
        (
            {"scheme": "bitsandbytes-int8"},
            [("weight", "int8", (96, 256)), ("SCB", "float32", (96,)), ("weight_format", "uint8", ())],
        ),
    ],
    ids=lambda value: value["scheme"] if isinstance(value, dict) else "",
)
def test_the_tensors_of_one_matrix(scheme: dict[str, Any], tensors: list[Any]) -> None:
    assert shapes(96, 256, **scheme) == tensors


def test_nf4_stores_the_json_text_of_its_state_byte_by_byte() -> None:
    scheme = {"scheme": "bitsandbytes-4bit", "quant_type": "nf4", "dtype": "bfloat16"}
    text = '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 256]}'
    assert shapes(96, 256, **scheme) == [
        ("weight", "uint8", (12_288, 1)),
        ("weight.absmax", "float32", (384,)),  # 24,576 / 64
        ("weight.quant_map", "float32", (16,)),
        ("weight.quant_state.bitsandbytes__nf4", "uint8", (len(text),)),
    ]
    assert stored(96, 4096, **scheme)[-1].shape == (len(text) + 1,)  # 4096 has a digit more than 256


def test_double_quantization_keeps_a_byte_a_block_and_is_not_known_to_the_byte() -> None:
    scheme = {"scheme": "bitsandbytes-4bit", "quant_type": "nf4", "dtype": "bfloat16", "double_quant": True}
    sizes = {t.suffix: t.nbytes for t in stored(96, 256, **scheme)}
    assert (sizes["weight.absmax"], sizes["weight.nested_absmax"], sizes["weight.nested_quant_map"]) == (384, 8, 1024)
    assert "quant_state" in SCHEMES.validate_python(scheme).unproven


# ------------------------------------------------------------------------------------------- releases to the byte


def test_gpt_oss_20b_comes_out_to_the_byte() -> None:
    # 24 layers, H 2880, V 201,088; 64 heads of 64 and 8 of keys, all with biases, a sink a head; 32 experts of 2880.
    hidden, layers, experts = 2880, 24, 32
    attention = 2 * 4096 * hidden + 2 * 512 * hidden + 4096 + 2 * 512 + hidden + 64
    layer = 2 * hidden + attention + experts * (hidden + 1) + experts * (2 * hidden + hidden)  # biases of experts too
    plain = 2 * (2 * 201_088 * hidden + layers * layer + hidden)
    packed = nbytes(2 * hidden, hidden, scheme="mxfp4") + nbytes(hidden, hidden, scheme="mxfp4")
    assert plain + layers * experts * packed == CHECKPOINTS["gpt-oss-20b"]["value"]


def test_kimi_k3_comes_out_to_the_byte_once_o_norm_is_taken_as_float32() -> None:
    # o_norm was fitted to this total: it shows the packed experts, and nothing of o_norm
    # 92 MoE layers of 896 experts, 3 x 3584 x 3072; float32: of 69 KDA layers A_log and o_norm of 128, dt_bias and
    # three convolutions of 12,288 (4 taps); 82,432 correction biases.
    experts = 92 * 896
    wide = 69 * (128 + 128 + 12_288 + 3 * 12_288 * 4)
    narrow = 2_779_931_754_752 - experts * 3 * 3584 * 3072 - wide
    scheme = {"scheme": "mxfp4-pack-quantized"}
    packed = 2 * nbytes(3072, 3584, **scheme) + nbytes(3584, 3072, **scheme)
    assert experts * packed + 2 * narrow + 4 * (wide + 82_432) == CHECKPOINTS["kimi-k3"]["value"]


def test_awq_is_what_its_formula_says() -> None:
    # Qwen2.5 72B's down_proj padded for AWQ, [8192, 29696]: o·i/2 + o·i/g/2 + 2·o·i/g
    o, i, g = 8192, 29_696, 128
    scheme = {"scheme": "awq", "num_bits": 4, "group_size": g, "scale_dtype": "float16"}
    assert nbytes(o, i, **scheme) == o * i // 2 + o * i // g // 2 + 2 * o * i // g


# ------------------------------------------------------------------------------------- groups that don't divide


@pytest.mark.parametrize(
    ("scheme", "rows", "columns", "message"),
    [
        ({"scheme": "mxfp4"}, 8, 48, "48 inputs, which don't divide into groups of 32"),
        ({"scheme": "mxfp8"}, 8, 48, "48 inputs, which don't divide into groups of 32"),
        ({"scheme": "nvfp4"}, 8, 24, "24 inputs, which don't divide into groups of 16"),
        ({"scheme": "awq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"}, 12, 64, "words of 8"),
        ({"scheme": "gptq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"}, 40, 64, "blocks of 32"),
        ({"scheme": "mlx-affine", "num_bits": 4, "group_size": 64, "scale_dtype": "float16"}, 8, 96, "groups of 64"),
    ],
)
def test_what_a_format_can_not_store_is_refused(scheme: dict[str, Any], rows: int, columns: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stored(rows, columns, **scheme)


def test_gptq_keeps_a_group_that_is_cut_short() -> None:
    # AutoGPTQ: ceil(in_features / group_size) rows of zeros and scales
    _, zeros, scales, _ = stored(64, 160, scheme="gptq", num_bits=4, group_size=128, scale_dtype="float16")
    assert (zeros.shape, scales.shape) == ((2, 8), (2, 64))


@pytest.mark.parametrize("listed", [False, True])
def test_a_spec_whose_groups_do_not_divide_is_refused_where_it_says_so(listed: bool) -> None:
    packed = {"scheme": "pack-quantized", "num_bits": 4, "group_size": 3, "scale_dtype": "bfloat16"}
    plain = {"scheme": "plain", "dtype": "bfloat16"}
    rules = [{"match": "*.experts.*", "store": packed}, {"match": "default", "store": plain}]
    content = {**tiny(), "storage": rules if listed else {"default": plain, "routed_expert": packed}}
    text = dumped(content)
    with pytest.raises(
        SpecError, match=r"experts\.0\.gate_proj has 8 inputs, which don't divide into groups of 3"
    ) as caught:
        parse(text, "s.yaml", Spec)
    assert caught.value.line is not None
    assert text.splitlines()[caught.value.line - 1].strip() == "group_size: 3"


# ------------------------------------------------------------------------------------------ divided by devices


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize(
    "scheme",
    [
        {"scheme": "awq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"},
        {"scheme": "gptq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"},
        {"scheme": "bitsandbytes-4bit", "quant_type": "nf4", "dtype": "bfloat16"},
        {"scheme": "nvfp4"},
        {"scheme": "mxfp4"},
    ],
    ids=lambda scheme: scheme["scheme"],
)
def test_parts_of_a_matrix_have_all_that_describes_it(scheme: dict[str, Any], tp: int) -> None:
    how = SCHEMES.validate_python(scheme)
    out, into = (Dim("ffn", 256, "ffn"),), (Dim("hidden", 1024),)
    w = Weight("a", "weight", out, into, role="dense_ffn", part="backbone", dtype="bfloat16")

    class One:
        def __call__(self, w: Weight) -> tuple[Stored, ...]:
            return how.stored(w)

        def split(self, weights: Any) -> list[Weight]:
            return list(weights)

    (held,) = held_weights([w], One(), Deployment(tp=tp))
    assert held.held == sum(t.nbytes for t in stored(256 // tp, 1024, **scheme))


# ------------------------------------------------------------------------------------------- what reports say


def with_storage(**storage: Any) -> Spec:
    plain = {"scheme": "plain", "dtype": "bfloat16"}
    return spec_of({**tiny(), "storage": {"default": plain, **storage}})


@pytest.mark.parametrize(
    ("scheme", "word"),
    [
        ({"scheme": "gptq", "num_bits": 4, "group_size": 32, "scale_dtype": "float16"}, "gptq"),
        ({"scheme": "fp8-block", "block_size": [4, 4], "scale_dtype": "float8_e8m0fnu"}, "float8_e8m0fnu"),
        ({"scheme": "float-quantized", "strategy": "channel", "scale_dtype": "bfloat16"}, "float-quantized"),
    ],
)
def test_weights_says_what_is_unproven(scheme: dict[str, Any], word: str) -> None:
    content = tiny()
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 64
    content["backbone"]["hidden_size"] = 32
    content["storage"] = {"default": {"scheme": "plain", "dtype": "bfloat16"}, "dense_ffn": scheme}
    (line,) = weights(spec_of(content)).assumptions
    assert "unproven" in line
    assert word in line


def test_a_proven_scheme_is_no_assumption() -> None:
    block = {"scheme": "fp8-block", "block_size": [4, 4], "scale_dtype": "float32"}
    assert weights(with_storage(attention=block)).assumptions == []
    assert weights(with_storage()).assumptions == []


def test_every_quantized_scheme_says_in_its_docstring_whether_it_is_proven() -> None:
    for scheme in Quantized.__subclasses__():
        assert "roven" in (scheme.__doc__ or ""), scheme


def dense(tmp_path: Any, **storage: Any) -> str:
    content = tiny()
    content["backbone"]["layers"] = [{"count": 3, "attention": "gqa", "ffn": "dense"}]
    del content["backbone"]["ffn"]["moe"]
    content["storage"] = {"default": {"scheme": "plain", "dtype": "bfloat16"}, **storage}
    return written(tmp_path, content)


def test_a_storage_that_quantizes_nothing_says_so(tmp_path: Any) -> None:
    # K2.5 quantizes its routed experts only, and this model has none
    for command in (("weights",), ("serve", "--gpu", "h200")):
        name, *flags = command
        notes = answered(name, dense(tmp_path), "--as", "k25", *flags)["notes"]
        assert any(
            "k25 quantizes nothing in this model: the rule for routed_expert matches no weight" in n for n in notes
        )
        assert any("nothing changes" in n for n in notes)


def test_what_a_storage_did_not_apply_to_is_said(tmp_path: Any) -> None:
    notes = answered("weights", dense(tmp_path), "--as", "deepseek-v3")["notes"]
    assert any("the rules for routed_expert, shared_expert match no weight" in note for note in notes)
    assert any("Not quantized as deepseek-v3: matrices of embedding, head" in note for note in notes)
    assert not any("nothing changes" in note for note in notes)


def test_the_storage_of_the_release_says_that_nothing_changes(tmp_path: Any) -> None:
    assert answered("weights", dense(tmp_path), "--as", "bf16")["notes"] == [
        "As bf16 nothing changes: the release is stored so."
    ]
    assert answered("weights", dense(tmp_path))["notes"] == []
    notes = answered("weights", "deepseek-v3", "--as", "fp8")["notes"]  # the release has embedding and head twice
    assert not any("nothing changes" in note for note in notes)


def test_an_embedding_can_be_quantized() -> None:
    packed = {"scheme": "pack-quantized", "num_bits": 4, "group_size": 8, "scale_dtype": "bfloat16"}
    spec = with_storage(embedding=packed)
    assert spec.backbone.hidden_size == 8
    vocab = spec.backbone.vocab_size
    plain = weights(with_storage()).quantities["weights.bytes"]
    assert (
        plain - weights(spec).quantities["weights.bytes"] == vocab * (2 * 8 - 4 - 2) - 8
    )  # 4 bits each, a scale, and the shape
