"""Plans over models small enough to add up by hand: a term that a large model hides is all that there is here.

TINY has h 8, 4 heads and 2 key-value heads of 3, 6 experts, 2 a token; T tokens are on one device.
"""

from __future__ import annotations

import copy
from math import pi, sqrt
from typing import Any

import pytest

from archcalc.calc.sharding import Shards
from archcalc.documents.train import run_of
from archcalc.files.model import Spec
from archcalc.hardware import load_hardware
from archcalc.tape import Tape
from archcalc.training.chunk import ChunkMemory
from archcalc.training.ledger import imbalances
from archcalc.training.memory import RankMemory, one_layer_extra, training_memory
from archcalc.training.offload import offload_need
from archcalc.training.optimizer import OPTIMIZERS
from archcalc.training.run import Run
from archcalc.training.savers import savers
from archcalc.workload import Workload
from tests.support import TINY, spec_of
from tests.towers import small
from tests.training.plans import chunk, k2_plan

H, EXPERTS, TOP_K = 8, 6, 2
ONE_DEVICE = (
    *(f"parallel.{axis}=1" for axis in ("world", "pp", "vpp", "ep")),
    *("schedule.kind=1f1b", "schedule.extra_warmup=0", "batch.seq=64"),
    *("activations.recompute=[]", "activations.fp8=[]", "activations.offload=none"),
)


def model(ffn: str = "dense", **changes: Any) -> Spec:
    """One layer with TINY's feed-forward block of this kind; keys of the block change it, all others the backbone."""
    return spec_of(content(ffn, **changes))


def content(ffn: str = "dense", **changes: Any) -> dict[str, Any]:
    """The same as plain data."""
    plain = copy.deepcopy(TINY)
    block = plain["backbone"]["ffn"][ffn]
    block |= {key: value for key, value in changes.items() if key in block}
    plain["backbone"] |= {
        "layers": [{"count": 1, "attention": "gqa", "ffn": ffn}],
        "num_hidden_layers": 1,
        "max_position_embeddings": 8192,
        "ffn": {ffn: block},
    } | {key: value for key, value in changes.items() if key not in block}
    return plain


def planned(spec: Spec, *overrides: str) -> Run:
    return run_of(spec, k2_plan(*ONE_DEVICE, *overrides))


def ranks(spec: Spec, *overrides: str) -> list[RankMemory]:
    return training_memory(planned(spec, *overrides))


# -------------------------------------------------------------------------------------------- multi-token prediction

LAST_RANK = ("parallel.pp=2", "parallel.world=2", "parallel.layout=[1, 0]", "activations.cross_entropy=te")
"""The layer on the first rank; the prediction module and the head on the last."""


def beside_the_head(spec: Spec, overrides: tuple[str, ...] = ()) -> RankMemory:
    return ranks(spec, *LAST_RANK, *overrides)[1]


def test_a_prediction_module_runs_backward_as_a_layer_does() -> None:
    """Highest at the activation of a wide feed-forward, as in any layer. Beside what was kept at its start then:
    gradients of the product 2f, of gate and up 4f and of the residual 2h; freed are the product 2f, what the module's
    last norm kept (2h and 4), and, before that, the head's part: its norm 4h + 4 and its logits 2V."""
    width, tokens, vocabulary = 4000, 64, 32
    rank = beside_the_head(model(intermediate_size=width, num_nextn_predict_layers=1))
    taken = (2 + 4) * width + 2 * H - 2 * width - (2 * H + 4) - (4 * H + 4 + 2 * vocabulary)
    received = 2 * H  # the message between the stages
    assert rank.moment == "backward of chunk 0, micro-batch 0 at model.layers.1; alive: 1 of chunk 0"
    assert rank.transient == tokens * (taken + received)


def test_a_prediction_module_runs_forward_as_a_layer_does() -> None:
    """Experts of one feature, so that a layer's highest moment is the end of its forward (ep 2): the tokens sorted for
    sending, received, sorted for return and returned, 2kh each, and what experts and shared expert add, 2h each. The
    head's part is not there yet: its norm 4h + 4, its logits 2V."""
    tokens, vocabulary = 64, 32
    spec = model("moe", moe_intermediate_size=1, num_nextn_predict_layers=1)
    rank = beside_the_head(spec, ("parallel.ep=2", "parallel.world=4", "activations.router_probs=act"))
    taken = 4 * 2 * TOP_K * H + 2 * 2 * H - (4 * H + 4 + 2 * vocabulary)
    received = 2 * H
    assert rank.moment == "forward of chunk 0, micro-batch 0 at model.layers.1; alive: 1 of chunk 0"
    assert rank.transient == tokens * (taken + received)


# ----------------------------------------------------------------------------------------------------- the head's loss


@pytest.mark.parametrize(
    ("seq", "cp", "piece"),
    [
        (64, 1, 64),  # fewer tokens than a piece has: they are the piece
        (1024, 1, 1024),
        (4096, 1, 1024),
        (4096, 2, 1024),  # 2048 tokens a device
        (2048, 4, 512),  # 512 of them
    ],
)
def test_a_chunked_loss_takes_one_piece_of_the_devices_own_tokens(seq: int, cp: int, piece: int) -> None:
    """14 bytes a token and word: logits and their gradient in bf16, fp32 copies as in eager code, none of it kept."""
    vocabulary = 30_000  # beside it the layer is nothing
    sizes = (f"batch.seq={seq}", f"parallel.cp={cp}", f"parallel.world={cp}", "activations.cross_entropy=chunked")
    (rank,) = ranks(model(vocab_size=vocabulary), *sizes)
    assert rank.transient == 14 * piece * vocabulary


# ------------------------------------------------------------------------------------- devices that share a sequence


def test_chance_spreads_fewer_tokens_less_evenly() -> None:
    """Two devices of 1024 tokens, whether a micro-batch has 1024, two of 512, or 4096 over four context-parallel
    ones. Rows of one: mean 2·1024·2/2 = 2048, variance 2·1024·2·¼·(6 - 2)/(6 - 1) = 819.2; the larger of two normal
    values is 1/√π deviations above the mean."""
    want = 1 + sqrt(2 * 1024 * TOP_K / 4 * (EXPERTS - TOP_K) / (EXPERTS - 1)) / sqrt(pi) / (1024 * TOP_K)
    for seq, micro_batch, cp in ((1024, 1, 1), (512, 2, 1), (4096, 1, 4)):
        sizes = (f"batch.seq={seq}", f"batch.micro_batch={micro_batch}", f"parallel.cp={cp}")
        rows = imbalances(planned(model("moe"), *sizes, "parallel.ep=2", f"parallel.world={2 * cp}"))
        found = {row["case"]: row["imbalance"] for row in rows}
        assert found["a uniformly random router, expected"] == pytest.approx(want, abs=2e-6)


@pytest.mark.parametrize(("tp", "cp"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_devices_that_divide_a_sequence_or_a_layer_divide_the_time_that_hides_copies(tp: int, cp: int) -> None:
    """Forward and backward three times 2·T a weight, with the head, and causal scores T²·heads·(3 + 3)."""
    tokens, vocabulary = 64, 32
    weights = H * 4 * 3 * 2 + H * 2 * 3 * 2 + 3 * H * 20 + H * vocabulary  # q and o, k and v, the FFN, the head
    flops = 3 * (2 * tokens * weights + tokens**2 * 4 * (3 + 3))
    sizes = (
        f"parallel.tp={tp}",
        f"parallel.sp={str(tp > 1).lower()}",
        f"parallel.cp={cp}",
        f"parallel.world={tp * cp}",
    )
    run = planned(model(), *sizes, "activations.offload=all", "memory.compute_utilization=0.5")
    hardware = load_hardware("h800")
    rows = offload_need(run, training_memory(run)[0], hardware)
    found = {row["term"]: row["value"] for row in rows}
    seconds = flops / (tp * cp) / (hardware.peak_flops["bfloat16"] / 2)
    assert found["compute of a chunk, forward and backward"] == pytest.approx(seconds * 1e3)


# ------------------------------------------------------------------------------------------------------------- a layer


def layers(
    spec: Spec, *recompute: str, fp8: tuple[str, ...] = (), shards: Shards | None = None, count: int = 1
) -> ChunkMemory:
    """A chunk of 64 tokens with the model's layer, or so many of it."""
    tape = spec.trace(Workload(phase="train", seq=64))
    n = next(n for n, s in enumerate(tape.segments) if s.indices)
    how = savers(kernels="fused", router_probs="act", recompute=recompute, fp8=fp8, cross_entropy="te")
    return chunk(tape, ((n, count),), shards or Shards(), how)


def test_a_layer_that_keeps_its_input_only_has_the_rest_while_it_runs_forward() -> None:
    """Highest at the activation: gate and up 4f, their product 2f, and attention's sum 2h, which the next sum needs."""
    assert layers(model(intermediate_size=4000), "full").forward == 64 * (6 * 4000 + 2 * H)


def test_what_is_kept_in_fp8_stands_in_bf16_too_while_the_forward_needs_it() -> None:
    """Gate and up of the routed rows, 4kf, until the activation has run; their product is kept as it is."""
    wide = model("moe", moe_intermediate_size=500, n_shared_experts=0)
    assert layers(wide, fp8=("swiglu_input",)).forward == 64 * 4 * TOP_K * 500
    assert layers(wide).forward < 64 * 4 * TOP_K * 500  # in bf16 it is what is kept


def test_each_expert_tensor_parallel_device_sends_its_own_tokens_and_receives_the_groups() -> None:
    """ep 2, etp 2, experts of two features. At the end of the forward: what was sent, 2kh, and three copies of what
    came, twice as much each; the shared expert's output 2h."""
    narrow = model("moe", moe_intermediate_size=2)
    assert layers(narrow, shards=Shards(ep=2, etp=2)).forward == 64 * (7 * 2 * TOP_K * H + 2 * H)


def test_two_layers_keep_and_wait_with_twice_as_much_as_one() -> None:
    one, two = (layers(model(), count=count) for count in (1, 2))
    # inputs of linears: both norms' outputs 2h each, attention's output of 4 heads of 3, the product of 20; bf16
    assert one.waiting == 64 * 2 * (2 * H + 12 + 20)
    assert (two.waiting, two.saved) == (2 * one.waiting, 2 * one.saved)


def test_one_uneven_layer_takes_what_it_keeps_and_what_it_sends_and_receives() -> None:
    """Experts of one feature over ep 2, so that the end of the forward is the highest moment; twice the mean comes. A
    routed row keeps fc1's input 2h, gate and up 4, their product 2, its maps 16 and its probability 4. Beside them at
    the mean: sorted, received, sorted for return and returned 2h each, and the layer's sum 2h a token; at twice the
    mean what was sent and three copies of what came are more."""
    run = planned(
        model("moe", moe_intermediate_size=1), "parallel.ep=2", "parallel.world=2", "activations.router_probs=act"
    )
    rows, sent, added = 64 * TOP_K, 64 * TOP_K * 2 * H, 64 * 2 * H
    at_the_mean, at_twice = 2 * (sent + sent) + added, sent + 3 * 2 * sent
    assert one_layer_extra(run, 2) == rows * (2 * H + 4 + 2 + 16 + 4) + at_twice - at_the_mean


# ----------------------------------------------------------------------------------------------------------- optimizers


def test_an_optimizer_step_is_the_worst_moment_only_if_it_takes_more_than_all_that_a_pass_has() -> None:
    """bf16 gradients are copied to fp32 before AdamW steps, 4 bytes a parameter: more than the activations of 64
    tokens, less than those and the head's piece of the loss, 14 bytes a token and word."""
    vocabulary = 30_000
    step = ("precision.grads=bf16", "precision.optimizer=adamw")
    (rank,) = ranks(model(vocab_size=vocabulary), "activations.cross_entropy=chunked", *step)
    assert rank.activation < rank.static.step < 14 * 64 * vocabulary == rank.transient
    assert rank.moment.startswith("forward")


def test_muon_takes_no_table_of_convolutions_or_positions_for_a_matrix() -> None:
    """They have more than two dims, or none of inputs (Jordan 2024: its matrices are two-dimensional): AdamW's 12 bytes
    a parameter, and not 8."""
    from archcalc.tape import Dim, Storage, Tensor

    tape, rows = Tape(Workload(phase="train")), (Dim("batch", 1), Dim("seq", 4))
    channels, kernel = Dim("channels", 6), Dim("kernel", 4)
    with tape.segment("layer", "backbone", Tensor(rows, (channels,), Storage(rows, (channels,), "bfloat16"))) as x:
        x = tape.short_conv(x, "conv1d", kernel, role="attention", bias=True)
        x = tape.add_table(x, "positions", (kernel, channels), role="vision", site="patch_embed")
        tape.conv_patch(rows, "patch_embed", Dim("colours", 3), (kernel, kernel), channels, role="vision")
        tape.linear(x, "out_proj", (channels,), role="attention", site="attn_out")
    bytes_of = {f"{w.path}.{w.suffix}": OPTIMIZERS["muon"].state_bytes(w) for w in tape.weights()}
    matrices = {path for path, n in bytes_of.items() if n == 8}
    assert matrices == {"layer.out_proj.weight"}
    assert {n for path, n in bytes_of.items() if path not in matrices} == {12}
    assert len(bytes_of) == 6  # two convolutions with their biases, the table, the matrix


def test_outputs_of_a_tower_and_their_gradients_stand_beside_the_pipeline() -> None:
    """An image of 32x32 is 8 x 8 patches of 4, 16 tokens of 2h bytes. Of four micro-batches all outputs are there from
    the first phase on, and when the last one runs, alone, the gradients of three."""
    tower, projector = small("qwen2-vl-2b")
    seeing = spec_of(content() | {"vision": tower, "projector": projector | {"text_hidden_size": H}})
    four = ("batch.global_tokens=256", "vision.process=decoupled")
    ((image,), (text,)) = (
        ranks(seeing, *four, *images) for images in (("batch.images={size: 32x32, per_sequence: 1}",), ())
    )
    kept = [next(m.activation for m in rank.moments if m.phase == "pipeline") for rank in (image, text)]
    assert kept[0] - kept[1] == (4 + 3) * 16 * 2 * H
