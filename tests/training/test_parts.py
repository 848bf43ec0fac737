"""Parts that do not train: Qwen3-4B added up by hand, and laws that hold of any model.

Qwen3-4B (its config.json): h 2560, 32 heads and 8 key-value heads of 128, f 9728, 36 layers, 151,936 words, tied. One
layer's matrices: q and o 2560·4096, k and v 2560·1024, gate, up and down 2560·9728: 100,925,440; norms 2·2560 + 2·128.
"""

from __future__ import annotations

from typing import Any

import pytest

from archcalc.calc.activations import saved_bytes, saved_rows
from archcalc.calc.liveness import forward_alive
from archcalc.calc.sharding import Shards
from archcalc.documents.parts import part_rows
from archcalc.documents.train import run_of, train_quantities, train_report
from archcalc.errors import InputError, SpecError
from archcalc.files.model import Spec
from archcalc.tape import Op, Segment, value
from archcalc.training.chunk import segment_memory
from archcalc.training.load import load_plan
from archcalc.training.memory import RankMemory, training_memory
from archcalc.training.packed import held_bytes, unpacked
from archcalc.training.parts import Train, trained_tape
from archcalc.training.plan import Plan
from archcalc.training.run import Run
from archcalc.training.savers import savers
from archcalc.training.transient import running_forward
from archcalc.workload import Workload
from tests.support import data, spec_of, tiny

H, N, G, D, F, LAYERS, VOCAB, T = 2560, 32, 8, 128, 9728, 36, 151_936, 4096
MATRICES = 2 * H * N * D + 2 * H * G * D + 3 * H * F
NORMS = LAYERS * (2 * H + 2 * D) + H
WORDS = VOCAB * H
ADAPTERS = LAYERS * 16 * (2 * (H + N * D) + 2 * (H + G * D) + 3 * (H + F))
"""Of rank 16: inputs and outputs of each matrix."""
DEVICES = 32
ATTENTION = {
    "kind": "gqa",
    "num_attention_heads": N,
    "num_key_value_heads": G,
    "head_dim": D,
    "attention_bias": False,
    "attention_out_bias": False,
    "qk_norm": "per_head",
}
DENSE = {"kind": "dense", "intermediate_size": F, "hidden_act": "silu", "gated": True, "mlp_bias": False}


def qwen() -> Spec:
    plain = tiny(
        hidden_size=H,
        vocab_size=VOCAB,
        num_hidden_layers=LAYERS,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        layers=[{"count": LAYERS, "attention": "only", "ffn": "dense"}],
        attention={"only": ATTENTION},
        ffn={"dense": DENSE},
    )
    return spec_of(plain)


QWEN = qwen()


def plan(*overrides: str) -> Plan:
    one = [f"parallel.{axis}=1" for axis in ("pp", "vpp", "ep")]
    no_savers = [f"activations.{name}=[]" for name in ("recompute", "fp8")]
    more = ("schedule.kind=1f1b", "schedule.extra_warmup=0", "activations.offload=none", "memory.fixed=0GB")
    sizes = ("precision.optimizer=adamw", f"parallel.world={DEVICES}", "batch.global_tokens=4194304")
    return load_plan("k2-pretrain", (*one, *no_savers, *more, *sizes, *overrides))


def planned(spec: Spec, *overrides: str) -> Run:
    return run_of(spec, plan(*overrides))


def rank(spec: Spec, *overrides: str) -> RankMemory:
    return training_memory(planned(spec, *overrides))[0]


def segments(spec: Spec, **train: str) -> list[Segment]:
    tape = spec.trace(Workload(phase="train", seq=T))
    return trained_tape(tape, Train.model_validate(train)).segments


def run_ops(run: Run) -> list[Op]:
    return [op for segment in run.tape.segments for op in segment.ops]


def kept(segment: Segment) -> int:
    how = savers(kernels="fused", router_probs="act", cross_entropy="te")
    return saved_bytes(segment, Shards(), how)


# ------------------------------------------------------------------------------------------------- what stands still


def test_a_frozen_embedding_has_weights_and_neither_gradient_nor_state() -> None:
    """Tied, it is the head too. AdamW: fp32 gradients, 12 bytes of states over 32 devices."""
    full, frozen = rank(QWEN), rank(QWEN, "train.embedding=frozen")
    whole = LAYERS * MATRICES + NORMS + WORDS
    assert (full.static.params, full.static.grads) == (2 * whole, 4 * whole)
    assert frozen.static.params == full.static.params
    assert full.static.grads - frozen.static.grads == 4 * WORDS == 1_555_824_640
    assert full.static.optimizer - frozen.static.optimizer == 12 * WORDS // DEVICES == 145_858_560
    assert full.cached - frozen.cached == 2 * WORDS  # the head's placeholder gradient


def test_adapters_of_rank_16_are_16_times_inputs_and_outputs_of_each_matrix() -> None:
    assert ADAPTERS == 33_030_144
    full, lora = rank(QWEN), rank(QWEN, "train.backbone=lora(16)")
    assert lora.static.params == full.static.params + 2 * ADAPTERS
    assert (lora.static.grads, lora.static.optimizer) == (4 * ADAPTERS, 12 * ADAPTERS // DEVICES)
    assert (
        train_quantities(run := planned(QWEN, "train.backbone=lora(16)"), training_memory(run))[
            "train.params_grads_bytes_unique"
        ]
        == 2 * (LAYERS * MATRICES + NORMS + WORDS) + 6 * ADAPTERS
    )


def test_a_base_in_nf4_takes_half_a_byte_a_byte_for_64_and_four_for_64_times_256() -> None:
    """Every matrix of Qwen3-4B divides into blocks of 64·256. Norms, adapters and embedding stay in 16 bits."""
    lora, qlora = rank(QWEN, "train.backbone=lora(16)"), rank(QWEN, "train.backbone=qlora(16)")
    packed = MATRICES // 2 + MATRICES // 64 + 4 * MATRICES // (64 * 256)
    assert 8 * packed / MATRICES == pytest.approx(4.127, abs=5e-4)
    assert lora.static.params - qlora.static.params == LAYERS * (2 * MATRICES - packed)
    assert (qlora.static.grads, qlora.static.optimizer) == (lora.static.grads, lora.static.optimizer)
    assert qlora.activation == lora.activation


def test_a_release_that_is_quantized_stays_as_it_is() -> None:
    """K2.5's experts in four bits with a bf16 scale for 32; its attention is plain in the release, and here."""
    run = planned(spec_of(data("k25")), "train.backbone=qlora(8)", "parallel.ep=16")
    weights = {w.path.rpartition(".")[2]: w for w in run.tape.weights() if w.packed}
    assert set(weights) == {"gate_proj", "up_proj", "down_proj"}
    assert {w.role for w in run.tape.weights() if w.packed} == {"routed_expert"}
    experts, inner, outer = 384 // 16, 7168, 2048
    one = inner * outer // 2 + 2 * inner * outer // 32
    assert held_bytes(weights["gate_proj"], run.shards, 2) == experts * one


def test_zero_3_divides_what_rests_too() -> None:
    whole, divided = (rank(QWEN, "train.backbone=frozen", f"parallel.zero={zero}") for zero in (1, 3))
    assert (divided.static.params, divided.static.grads) == (whole.static.params // DEVICES, 0)
    layer = MATRICES + 2 * H + 2 * D
    assert divided.static.gathered == 2 * 2 * layer  # two layers' weights, no gradients
    adapted = rank(QWEN, "train.backbone=lora(16)", "parallel.zero=3").static
    assert adapted.gathered == 2 * 2 * layer + (2 * 2 + 4) * ADAPTERS // LAYERS


def test_muon_hands_out_adapters_as_the_matrices_that_they_are() -> None:
    """On one device 8 bytes for each of them."""
    muon = rank(QWEN, "train.backbone=lora(16)", "precision.optimizer=muon", "parallel.world=1")
    assert muon.static.optimizer == 8 * ADAPTERS


def test_tensor_parallelism_divides_adapters_as_it_does_their_matrices() -> None:
    """Beside q (out divided): A by its rank, B by its outputs; beside o (inputs divided): A by its inputs, B by its
    outputs. All are halved on two devices. Key-value heads past their number are copied, and A beside them is not."""
    one, two = (rank(QWEN, "train.backbone=lora(16)", f"parallel.tp={tp}") for tp in (1, 2))
    assert 2 * two.static.grads == one.static.grads
    with pytest.raises(InputError, match="lora_rank 3 can't be divided over tp 2"):
        rank(QWEN, "train.backbone=lora(3)", "parallel.tp=2")


# ------------------------------------------------------------------------------------------------ what stays backward


def test_an_adapted_layer_keeps_the_middle_of_each_adapter_beside_all_that_a_trained_one_keeps() -> None:
    """All seven have inputs that must stay for A. bf16: 2·16 bytes a token each."""
    _, full, _ = segments(QWEN)
    _, first, others, _ = segments(QWEN, backbone="lora(16)")
    assert kept(others) - kept(full) == 7 * 2 * 16 * T
    assert (first.indices, others.indices) == ((0,), tuple(range(1, LAYERS)))
    # Nothing trained lies before the first layer's norm: neither its input nor 1/rms is asked for.
    assert kept(others) - kept(first) == (2 * H + 4) * T


def test_a_frozen_layer_behind_a_trained_embedding_keeps_what_the_path_of_gradients_needs() -> None:
    """Both norms, those of heads, attention and the activation; no input of any linear that no other keeps too."""
    _, layer, head = segments(QWEN, backbone="frozen", embedding="full")
    norms = 2 * (2 * H + 4) + (2 * N * D + 4 * N) + (2 * G * D + 4 * G)
    attention = 2 * N * D + 2 * G * D + 2 * G * D + 2 * N * D + 4 * N
    assert kept(layer) == (norms + attention + 4 * F) * T
    assert {op.backward_factor for op in layer.ops if op.counts_as == "linear" and op.flops} == {1}
    assert kept(head) == (2 * H + 4 + 2 * H + 2 * VOCAB) * T  # tied: the head trains, and keeps its input


def test_a_frozen_prefix_keeps_nothing_and_has_no_backward() -> None:
    """Two stages of a frozen backbone before a prediction module that trains: the first one's chunk is empty."""
    spec = spec_of(tiny(num_nextn_predict_layers=1))
    sizes = ("parallel.world=2", "parallel.pp=2", "batch.seq=64", "batch.global_tokens=1024")
    run = planned(spec, "train.backbone=frozen", *sizes)
    first, last = training_memory(run)
    assert (first.activation, first.static.grads, first.static.optimizer) == (0, 0, 0)
    assert last.activation > 0
    *before, mtp = run.tape.segments
    assert {op.backward_factor for s in before for op in s.ops} == {0}
    # The main head has no backward; the module's own pass through it has.
    rows = saved_rows(mtp, run.shards, run.savers)
    full = planned(spec, "train.backbone=full", *sizes)
    whole = saved_rows(full.tape.segments[-1], full.shards, full.savers)
    head_input = 2 * 8 * 64
    assert sum(r.nbytes for r in whole) - sum(r.nbytes for r in rows) >= head_input
    assert [r for r in rows if r.site == "loss"] != []


def test_what_enters_a_frozen_layer_stands_until_it_is_added_to() -> None:
    """No norm keeps it there: T x h in bf16 beside results up to the first sum. A trained layer's is kept anyway."""

    def until_the_sum(how: str) -> tuple[int, int]:
        run = planned(QWEN, f"train.backbone={how}")
        layer = run.tape.segments[1].without(frozenset())
        end = next(i for i, op in enumerate(layer.ops) if op.site == "residual")
        layer.ops = layer.ops[: end + 1]
        kept = {row.storage for row in saved_rows(layer, run.shards, run.savers)}
        variants = run.savers.variants
        alive = running_forward(layer, run.shards, kept, variants).total
        return alive, forward_alive(layer, run.shards, kept, variants=variants).total

    alive, results = until_the_sum("frozen")
    assert alive - results == 2 * T * H
    alive, results = until_the_sum("full")
    assert alive == results


def test_nothing_trains_where_all_is_frozen() -> None:
    run = planned(QWEN, "train.backbone=frozen")
    (only,) = training_memory(run)
    assert (only.activation, only.static.grads, only.static.optimizer, only.cached) == (0, 0, 0, 0)
    report = train_report(QWEN, plan("train.backbone=frozen"))
    assert any("nothing trains" in note for note in report.notes)


def test_a_trained_tower_sends_gradients_through_a_frozen_backbone() -> None:
    """K2.5 with its tower alone: every layer of the backbone is on the way, none has a gradient of its own."""
    run = planned(spec_of(data("k25")), "train.backbone=frozen", "parallel.ep=16")
    backbone = [s for s in run.tape.segments if s.part == "backbone" and s.indices]
    assert all(s.learns and s.indices for s in backbone)
    assert not any(w.trained for s in backbone for op in s.ops for w in op.weights)
    alone = planned(spec_of(data("k25")), "train.vision=frozen", "train.projector=frozen", "parallel.ep=16")
    assert not any(s.learns for s in alone.tape.segments if s.part in ("vision", "projector"))
    both = planned(spec_of(data("k25")), "train.vision=frozen", "parallel.ep=16")
    assert [s.learns for s in both.tape.segments if s.part == "projector"] == [True]


def test_a_packed_matrix_is_unpacked_for_each_product() -> None:
    """A layer's forward and backward take the largest matrix in bf16 more, and its blocks' largest values in fp32."""
    lora, qlora = (
        planned(QWEN, f"train.backbone={kind}(16)", "batch.seq=128", "batch.global_tokens=4096")
        for kind in ("lora", "qlora")
    )
    one, four = (segment_memory(run.tape, 2, run.shards, run.savers) for run in (lora, qlora))
    matrix = 2 * H * F + 4 * H * F // 64
    # Beside it stands what is alive then, which is no more than the most that stands there without it.
    assert matrix < four.forward <= one.forward + matrix
    assert matrix < four.backward <= one.backward + matrix
    assert four.saved == one.saved
    largest = max((op for op in run_ops(qlora)), key=lambda op: unpacked(op, Shards()))
    assert unpacked(largest, Shards()) == matrix
    experts = planned(spec_of(tiny()), "train.backbone=qlora(4)", "batch.seq=64")
    fc1 = next(op for op in run_ops(experts) if op.site == "expert_fc1")
    assert unpacked(fc1, experts.shards) == 2 * 8 * 5 + 4  # one expert's of six; 40 weights are one block


@pytest.mark.parametrize("kernels", ["fused", "eager"])
@pytest.mark.parametrize("name", ["qwen", "moe"])
def test_all_of_a_model_takes_more_than_adapters_and_these_more_than_nothing(name: str, kernels: str) -> None:
    """And a base in four bits less than one in sixteen."""
    spec = QWEN if name == "qwen" else spec_of(tiny(hidden_size=256))
    extra = (f"activations.kernels={kernels}", "parallel.world=1", "batch.seq=64", "batch.global_tokens=65536")
    full, lora, qlora, frozen = (
        rank(spec, f"train.backbone={way}", *extra).peak for way in ("full", "lora(4)", "qlora(4)", "frozen")
    )
    assert full > lora > frozen
    assert lora > qlora


def test_the_default_changes_no_tape() -> None:
    tape = QWEN.trace(Workload(phase="train", seq=T))
    assert trained_tape(tape, Train()) is tape
    assert trained_tape(tape, Train(backbone="full", head="full")) is tape


def test_backward_flops_fall_by_the_weights_gradients() -> None:
    """Of the frozen layers' linears, 2·T·k·n each; adapters add three times their own forward."""
    full, frozen = segments(QWEN)[1], segments(QWEN, backbone="frozen", embedding="full")[1]
    adapted = segments(QWEN, backbone="lora(16)")[2]

    def backward(segment: Segment) -> int:
        return sum(value(op.flops) * op.backward_factor for op in segment.ops)

    assert backward(full) - backward(frozen) == 2 * T * MATRICES
    sides = 2 * (H + N * D) + 2 * (H + G * D) + 3 * (H + F)
    assert backward(adapted) - backward(frozen) == 2 * 2 * T * 16 * sides


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("backbone=lora(0)", "adapters have a rank of at least 1"),
        ("backbone=lora(x)", "no way to train a part"),
        ("backbone=thawed", "no way to train a part"),
        ("embedding=lora(4)", "an embedding has no linear layer for adapters"),
        ("head=qlora(4)", "every linear layer but the output head"),
        ("vision=frozen", "the model has no vision part"),
        ("projector=lora(4)", "the model has no projector part"),
        ("mtp=frozen", "the model has no multi-token prediction"),
        ("head=lora(4)", "the head is the embedding's matrix, which has no adapters"),
    ],
)
def test_what_can_not_be_trained_so_is_refused(train: str, message: str) -> None:
    with pytest.raises((InputError, SpecError), match=message):
        planned(QWEN, f"train.{train}")


def test_experts_say_that_their_adapters_are_their_own() -> None:
    lines = train_report(spec_of(tiny()), plan("train.backbone=lora(4)", "batch.seq=64")).assumptions
    assert any("share_expert_adapters" in line for line in lines)
    assert not any(
        "share_expert_adapters" in line for line in train_report(QWEN, plan("train.backbone=lora(4)")).assumptions
    )


def test_a_part_that_is_not_there_may_be_said_to_train_in_full() -> None:
    assert (
        rank(QWEN, "train.vision=full", "train.backbone=lora(4)").static == rank(QWEN, "train.backbone=lora(4)").static
    )


def test_a_tied_matrix_has_one_way() -> None:
    with pytest.raises(InputError, match="the head is the embedding's matrix"):
        planned(QWEN, "train.head=full", "train.embedding=frozen")
    assert rank(QWEN, "train.head=frozen").static == rank(QWEN, "train.embedding=frozen").static


def test_a_head_of_its_own_may_have_adapters() -> None:
    """TINY: head 32 x 8, untied; A 4·8, B 32·4."""
    run = planned(spec_of(tiny()), "train.backbone=frozen", "train.head=lora(4)", "batch.seq=64")
    assert sum(w.elements for w in run.tape.weights() if w.trained) == 4 * 8 + 32 * 4


def test_adapters_of_a_head_go_without_accumulation_fusion() -> None:
    """TINY's head and embedding are two matrices: no gradient of the one waits for the other's."""
    options = ("train.backbone=frozen", "train.head=lora(4)", "batch.seq=64")
    made = ("memory.gradient_accumulation_fusion=false", "memory.placeholder_grads=false")
    fused, apart = (rank(spec_of(tiny()), *options, *more) for more in ((), made))
    assert fused.static == apart.static


def test_the_report_names_what_trains() -> None:
    rows: dict[str, Any] = {}
    for row in part_rows(planned(QWEN, "train.backbone=lora(16)")):
        rows[row["part"]] = row
    assert rows["backbone"]["trained"] == ADAPTERS
    assert (rows["embedding"]["trained"], rows["embedding"]["weights_bytes"]) == (0, 2 * WORDS)
    report = train_report(QWEN, plan("train.backbone=lora(16)"))
    assert any(note.startswith("Trains 33,030,144 of 4,055,498,240 parameters (0.81 %)") for note in report.notes)
    assert any("NF4" in line for line in train_report(QWEN, plan("train.backbone=qlora(16)")).assumptions)


@pytest.mark.parametrize("part", ["backbone", "embedding", "head", "vision", "projector", "mtp"])
def test_a_way_that_there_is_not_is_refused_where_it_stands(part: str) -> None:
    with pytest.raises(InputError, match=f"{part}: half is no way to train a part") as error:
        load_plan("k2-pretrain", (f"train.{part}=half",))
    assert error.value.source == f"--set train.{part}=half"
