"""Linears in FP8: TINY's tensors and matrices by hand, and what two published runs differ by.

A layer's linears read 8 (q, k and v together), 12 (o), 8 (gate and up together) and 20 (down) features of a token;
their matrices are q 12x8, k and v 6x8, o 8x12, gate and up 20x8, down 8x20: 768 elements.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from archcalc.calc.activations import bare_rows, saved_rows
from archcalc.calc.sharding import Shards, local_bytes
from archcalc.errors import InputError
from archcalc.tape import Dim, Storage
from archcalc.training.checkpoint import checkpoints
from archcalc.training.chunk import segment_memory
from archcalc.training.fp8 import gradient_copies, input_copy
from archcalc.training.memory import RankMemory
from archcalc.training.transient import layer_backward, layer_forward
from tests.support import TINY, spec_of
from tests.training.plans import k2_plan
from tests.training.test_small_models import model, planned, ranks

T = 64


@pytest.fixture(autouse=True)
def no_product_asks_for_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    """TINY is counted by hand; real products take multiples of 16, which tests/training/legal asks."""
    monkeypatch.setattr("archcalc.training.run.illegal", lambda plan, model, stack: ())


ADAMW = "precision.optimizer=adamw"


def rank(*overrides: str, ffn: str = "dense") -> RankMemory:
    (found,) = ranks(model(ffn), ADAMW, *overrides)
    return found


def saved(found: RankMemory) -> int:
    return found.chunk_memory[0].saved


SCALES = {"tensorwise": 4 * 4, "delayed": 4 * 4, "blockwise": 4 * 48, "mxfp8": 2 * 48}
"""Four tensors: one scale in fp32 each; or one for 128 rows, or 32, of each of 48 columns: 64 rows have 1, or 2."""


@pytest.mark.parametrize("recipe", SCALES)
def test_a_linear_keeps_its_input_as_a_byte_an_element_and_scales(recipe: str) -> None:
    """In place of two bytes, but attention keeps its own output, and o a copy beside it. Norms keep theirs."""
    device = "hardware=b200" if recipe == "mxfp8" else "hardware=h100"
    found = saved(rank(f"precision.fp8={recipe}", device)) - saved(rank(device))
    assert found == T * (-8 + 12 - 8 - 20) + SCALES[recipe]


def test_the_routers_input_stays_in_16_bits_beside_the_shared_experts_copy() -> None:
    """Two routed rows a token with 8 features in and 5 to the down projection; the shared expert's 8 and 5."""
    found = saved(rank("precision.fp8=tensorwise", ffn="moe")) - saved(rank(ffn="moe"))
    assert found == T * (-8 + 12 + 8 - 5) - 2 * T * (8 + 5) + 6 * 4


def test_of_an_input_that_is_made_again_no_copy_is_kept() -> None:
    again = "activations.recompute=[layernorm, swiglu]"
    found = saved(rank("precision.fp8=tensorwise", again)) - saved(rank(again))
    assert found == 12 * T + 4


def test_an_input_that_is_made_again_stands_in_16_bits_beside_the_copy_that_backward_makes() -> None:
    """Norms' outputs for q, k, v and for gate and up: 8 features each; what the activation makes for down: 20. Inside
    a region that is run again as a whole (mlp) forward is as ever: it leaves a copy only."""
    run = planned(model(), ADAMW, "precision.fp8=tensorwise", "activations.recompute=[layernorm, swiglu]")
    segment = next(s for s in run.tape.segments if s.indices)
    plain = saved_rows(segment, run.shards, replace(run.savers, regions=()))
    again = bare_rows(segment, run.shards, run.savers)
    assert again[: len(plain)] == plain
    assert [(row.site, row.nbytes) for row in again[len(plain) :]] == [
        ("qkv", 2 * 8 * T),
        ("dense_fc1", 2 * 8 * T),
        ("dense_fc2", 2 * 20 * T),
    ]
    found = segment_memory(run.tape, run.tape.segments.index(segment), run.shards, run.savers)
    assert found.saved + found.backward == layer_backward(segment, run.shards, again, run.savers.variants)
    inside = planned(model(), ADAMW, "precision.fp8=tensorwise", "activations.recompute=[mlp, swiglu]")
    assert bare_rows(segment, run.shards, inside.savers) == plain
    bits = planned(model(), ADAMW, "activations.recompute=[layernorm, swiglu]").savers
    assert bare_rows(segment, run.shards, bits) == saved_rows(segment, run.shards, replace(bits, regions=()))


def test_storage_in_fp8_of_a_named_input_has_nothing_to_store_where_the_product_is_in_fp8() -> None:
    named = "activations.fp8=[moe_up_proj_input]"
    both = saved(rank("precision.fp8=tensorwise", named, ffn="moe"))
    assert both == saved(rank("precision.fp8=tensorwise", ffn="moe"))


def test_scales_of_a_part_of_a_block_count_whole() -> None:
    rows, columns = Dim("T", 129), Dim("h", 3)
    sizes = [local_bytes(Storage((rows,), (columns,), f"float8_{way}"), Shards()) for way in ("blockwise", "mxfp8")]
    assert sizes == [129 * 3 + 2 * 3 * 4, 129 * 3 + 5 * 3]


MX = (12 + 8) + 2 * (6 + 8) + (8 + 12) + 2 * (20 + 8) + (8 + 20)
"""Scales of the seven matrices, by rows and by columns: none has more than 32 of either."""


@pytest.mark.parametrize(
    ("recipe", "device", "held"),
    [
        ("tensorwise", "h100", 2 * 768 + 7 * 4),  # and a transposed copy
        ("delayed", "h100", 2 * 768 + 7 * 4),
        ("tensorwise", "l40s", 2 * 768 + 7 * 4),
        ("tensorwise", "b200", 768 + 7 * 4),  # products read either order
        ("blockwise", "h100", 2 * (768 + 7 * 4)),
        ("blockwise", "b200", 2 * (768 + 7 * 4)),
        ("mxfp8", "b200", 2 * 768 + MX),
    ],
)
def test_weights_in_fp8_stand_beside_those_in_16_bits_or_in_their_place(recipe: str, device: str, held: int) -> None:
    plain = rank(f"hardware={device}")
    beside = rank(f"hardware={device}", f"precision.fp8={recipe}")
    instead = rank(f"hardware={device}", f"precision.fp8={recipe}", "precision.fp8_params=true")
    assert (beside.cached - plain.cached, beside.static) == (held, plain.static)
    assert (instead.cached, instead.static.params) == (plain.cached, plain.static.params - 2 * 768 + held)
    assert instead.static.grads == plain.static.grads
    recipes = ("precision.fp8_params=true", f"precision.fp8={recipe}")
    same = [checkpoints(planned(model(), ADAMW, f"hardware={device}", *more)) for more in ((), recipes)]
    assert same[0] == same[1]  # written in 16 bits


def test_a_devices_own_experts_are_quantized_one_by_one() -> None:
    """ep 2: three experts of three matrices of 40, attention's 288, the shared expert's 120; not the router's 48."""
    experts = ("parallel.ep=2", "parallel.world=2", "hardware=h100")
    held = rank("precision.fp8=tensorwise", *experts, ffn="moe").cached - rank(*experts, ffn="moe").cached
    assert held == 2 * (3 * 120 + 288 + 120) + 4 * (9 + 4 + 3)


def test_published_runs_on_hopper_and_blackwell_differ_by_the_transposed_weights() -> None:
    """Megatron-LM tests/functional_tests, gpt3_weekly_mcore_tp4_cp2_current_scaling_native_fp8_tp_sp_cp_tp_overlap: 12
    layers of h 512 and f 2048, tp 4, weights in FP8; allocated between steps 300,733,952 bytes on H100 and 291,296,768
    on GB200."""
    spec = copy.deepcopy(TINY)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}
    spec["backbone"] |= {
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "max_position_embeddings": 1024,
        "layers": [{"count": 12, "attention": "gqa", "ffn": "dense"}],
        "attention": {"gqa": spec["backbone"]["attention"]["gqa"] | heads},
        "ffn": {
            "dense": spec["backbone"]["ffn"]["dense"]
            | {"intermediate_size": 2048, "gated": False, "hidden_act": "gelu"}
        },
    }
    layout = ("batch.seq=1024", "parallel.world=8", "parallel.tp=4", "parallel.sp=true", "parallel.cp=2")
    native = (*layout, ADAMW, "precision.fp8=tensorwise", "precision.fp8_params=true")
    params = [ranks(spec_of(spec), *native, f"hardware={each}")[0].static.params for each in ("h100", "gb200")]
    assert params[0] - params[1] == 300_733_952 - 291_296_768


def test_a_running_linear_has_copies_of_its_input_and_of_its_outputs_gradient() -> None:
    """Down reads 20 features and makes 8: of the gradient one copy by rows and one by columns."""
    run = planned(model(), ADAMW, "precision.fp8=tensorwise")
    (down,) = (op for segment in run.tape.segments for op in segment.ops if op.site == "dense_fc2")
    variants = run.savers.variants
    assert input_copy(down, run.shards, variants) == 20 * T + 4
    assert gradient_copies(down, run.shards, variants) == 2 * (8 * T + 4)
    assert input_copy(down, run.shards, frozenset()) == gradient_copies(down, run.shards, frozenset()) == 0
    segment = next(s for s in run.tape.segments if down in s.ops)
    narrow = segment.without(frozenset(op.site for op in segment.ops) - {"dense_fc2"})
    extra = [layer_backward(narrow, run.shards, [], ways) for ways in (variants, variants - {"fp8_tensorwise"})]
    assert extra[0] - extra[1] == 2 * (8 * T + 4)
    extra = [layer_forward(narrow, run.shards, [], ways) for ways in (variants, variants - {"fp8_tensorwise"})]
    assert extra[0] - extra[1] == 20 * T + 4


@pytest.mark.parametrize("way", ["frozen", "lora(4)", "qlora(4)"])
def test_a_frozen_linear_multiplies_in_fp8_too_and_its_adapters_do_not(way: str) -> None:
    """Its weight stays in FP8 as ever, and its operands are copied; a matrix in four bits is no such weight."""
    run = planned(model(), ADAMW, "precision.fp8=tensorwise", "hardware=h100", f"train.backbone={way}")
    plain = planned(model(), ADAMW, "hardware=h100", f"train.backbone={way}")
    variants, packed = run.savers.variants, way.startswith("q")
    downs = [op for s in run.tape.segments for op in s.ops if op.site == "dense_fc2" and op.weights]
    assert [input_copy(op, run.shards, variants) for op in downs[:1]] == [0 if packed else 20 * T + 4]
    assert [gradient_copies(op, run.shards, variants) for op in downs[:1]] == [0 if packed else 2 * (8 * T + 4)]
    assert len(downs) == (1 if way == "frozen" else 3)
    assert not any(input_copy(op, run.shards, variants) for op in downs[1:])
    assert run.ranks[0].cached - plain.ranks[0].cached == (0 if packed else 2 * 768 + 7 * 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["precision.fp8_params=true"], "weights in FP8 need a recipe"),
        (["precision.fp8=delayed", "activations.kernels=eager"], "plain code has none"),
        (["precision.fp8=delayed", "parallel.zero=3"], "is not modelled"),
        (
            ["precision.fp8=delayed", "precision.fp8_params=true", "precision.optimizer=adamw-precision-aware"],
            "keeps 16 more bits",
        ),
        (["precision.fp8=delayed", "precision.fp8_params=true", "precision.params=fp32"], "stand in for weights in 16"),
    ],
)
def test_what_a_plan_in_fp8_cannot_say(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        k2_plan(*overrides)


@pytest.mark.parametrize(
    ("device", "recipe", "message"),
    [("a100", "delayed", "no products in FP8"), ("h100", "mxfp8", "MXFP8 needs blackwell")],
)
def test_a_device_without_the_products_is_refused(device: str, recipe: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rank(f"precision.fp8={recipe}", f"hardware={device}")
