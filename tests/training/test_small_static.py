"""What stands on a device of a small model whatever runs: every weight added up by hand.

TINY's dense layer has 288 weights of attention (q and o 8·12, k and v 8·6), 480 of its block and two norms of 8; the
MoE layer a router 6·8, six experts and a shared one of 3·8·5. Embedding and head 32·8 each, the last norm 8.
"""

from __future__ import annotations

import pytest

from archcalc.errors import InputError
from archcalc.training.ledger import imbalances
from tests.training.plans import k2_plan
from tests.training.test_small_models import beside_the_head, model, planned, ranks

ADAMW = "precision.optimizer=adamw"
LAYER, ENDS = 288 + 480 + 2 * 8, 2 * 32 * 8 + 8


def test_the_fullest_device_has_the_rest_of_what_does_not_divide() -> None:
    (rank,) = ranks(model(), ADAMW, "parallel.world=64")
    assert 12 * (LAYER + ENDS) == 244 * 64 + 32
    assert rank.static.optimizer == 245


def test_zero_3_gathers_layers_and_no_end_of_the_model() -> None:
    """Two layers' weights in bf16 and one layer's gradients in fp32; embedding and head are used once a pass."""
    (rank,) = ranks(model(), ADAMW, "parallel.zero=3")
    assert rank.static.gathered == (2 * 2 + 4) * LAYER


def test_muon_hands_out_the_largest_matrices_first_and_a_devices_own_experts_only() -> None:
    """ep 2, 4 devices. Three experts a device are nine matrices of 40 over two: five on the fuller. Dense: 96 96 48 48
    48 40 40 40 over four, each to whoever holds least: 96, 96, 48 + 48, 48 + 40; then 40 on 88, and 40 on 96: 136.
    Embedding, head and three norms of 8 in slices at AdamW's 12 bytes; matrices at 8. Gradients in bf16 are copied to
    fp32 where they are stepped, so that the fuller device has more of them too."""
    (rank,) = ranks(model("moe"), "precision.optimizer=muon", "parallel.ep=2", "parallel.world=4")
    slices = (2 * 32 * 8 + 3 * 8) // 4
    assert rank.static.optimizer == 8 * 5 * 40 + 8 * 136 + 12 * slices
    layout = ("parallel.ep=2", "parallel.world=4", "precision.grads=bf16")
    (copied,) = ranks(model("moe"), "precision.optimizer=muon", *layout)
    assert copied.static.copied == 4 * (5 * 40 + 136 + slices)


def test_muons_whole_layout_deals_every_parameter_by_size_back_and_forth() -> None:
    """Four devices, from the smallest on: three norms of 8, shared down 40 | router 48, shared gate and up 80, o 96,
    q k v 192 | embedding and head 256 each. Device 0: 8 + 192 + 256, device 1: 8 + 96 + 256. Experts, over two: down
    40 40 | 40, gate and up 80 | 80 80: device 0 has 40 + 80 + 80, device 1 40 + 40 + 80."""
    whole = ("precision.optimizer=muon", "precision.muon_layout=whole", "parallel.ep=2", "parallel.world=4")
    (rank,) = ranks(model("moe"), *whole)
    assert rank.static.optimizer == 12 * (8 + 256) + 8 * 192 + 8 * (40 + 80 + 80)
    assert rank.static.late == 8 * (8 + 256) + 4 * 192 + 4 * (40 + 80 + 80)
    (copied,) = ranks(model("moe"), *whole, "precision.grads=bf16")
    newton_schulz = 4 * 2 * 96  # q's or o's matrix four times in bf16
    assert copied.static.step == 4 * ((8 + 192 + 256) + (40 + 80 + 80)) + newton_schulz  # and fp32 copies of gradients


def test_muons_whole_layout_deals_nothing_to_one_device() -> None:
    layouts = [("precision.optimizer=muon", f"precision.muon_layout={how}") for how in ("sliced", "whole")]
    one, other = (ranks(model("moe"), *how)[0].static for how in layouts)
    assert one == other


def test_a_layout_of_muons_matrices_needs_muon() -> None:
    with pytest.raises(InputError, match="muon_layout is a layout of Muon's matrices, and the optimizer is adamw"):
        k2_plan(ADAMW, "precision.muon_layout=whole")
    assert k2_plan(ADAMW).precision.muon_layout == "sliced"


def test_an_optimizer_on_the_host_leaves_its_share_of_states_and_takes_gradients_for_its_step() -> None:
    """AdamW, three quarters of 1304 parameters: 12 bytes of 326 stay, 8 of them moments; the host has 12 of 978 and
    their fp32 gradients. Those in bf16 are copied to fp32 for the step: of 326 that stay, and on their way out one
    parameter at a time, the largest being an end of the model."""
    (rank,) = ranks(model(), ADAMW, "memory.optimizer_offload=0.75")
    stay, leave = (LAYER + ENDS) // 4, (LAYER + ENDS) * 3 // 4
    assert (rank.static.optimizer, rank.static.late) == (12 * stay, 8 * stay)
    assert rank.static.host == (12 + 4) * leave
    assert rank.static.step == 0
    (copied,) = ranks(model(), ADAMW, "memory.optimizer_offload=0.75", "precision.grads=bf16")
    assert copied.static.step == 4 * stay + 4 * 32 * 8
    (sliced,) = ranks(model(), ADAMW, "memory.optimizer_offload=0.75", "precision.grads=bf16", "parallel.world=4")
    assert sliced.static.step == 4 * 82 + 4 * 256  # 326 a device, of which 81.5 stay
    (thin,) = ranks(model(), ADAMW, "memory.optimizer_offload=0.75", "precision.grads=bf16", "parallel.world=8")
    assert thin.static.step == 4 * 41 + 4 * 163  # a device's slice is less than the largest parameter


def test_gradients_of_experts_leave_for_the_host_one_expert_at_a_time() -> None:
    """Each has its own parameters: 8 x 100, larger than an end of the model; three are on a device."""
    sizes = ("parallel.ep=2", "parallel.world=2", "precision.grads=bf16", "memory.optimizer_offload=1.0")
    (rank,) = ranks(model("moe", moe_intermediate_size=100, n_shared_experts=0), ADAMW, *sizes)
    assert rank.static.step == 4 * 8 * 100


def test_an_optimizer_wholly_on_the_host_makes_no_moments_and_steps_nothing_on_the_device() -> None:
    (rank,) = ranks(model("moe"), "memory.optimizer_offload=1.0")
    assert (rank.static.optimizer, rank.static.late, rank.static.step) == (0, 0, 0)
    assert rank.peak_first == rank.peak
    (half,) = ranks(model("moe"), "memory.optimizer_offload=0.5")
    (none,) = ranks(model("moe"))
    assert none.static.host == 0
    assert half.static.step == none.static.step == 8 * 96  # Newton-Schulz of the largest matrix, which may stay


def test_a_vocabulary_is_padded_to_128_words_a_tensor_parallel_device() -> None:
    """Megatron-LM, --make-vocab-size-divisible-by: 33 words over two devices are 256, 128 on each."""
    (rank,) = ranks(model(vocab_size=33), "parallel.tp=2", "parallel.world=2")
    assert rank.static.params == 2 * ((288 + 480) // 2 + 3 * 8 + 2 * 128 * 8)


def test_an_all_to_all_divides_the_heads_that_tensor_parallelism_has_left() -> None:
    """4 heads divide over cp 4, and not over tp 2 x cp 4."""
    exchange = ("parallel.cp=4", "parallel.cp_comm=a2a")
    assert len(ranks(model(), *exchange, "parallel.world=4")) == 1
    with pytest.raises(InputError, match="num_attention_heads 4 can't be divided over tp x cp = 8"):
        ranks(model(), *exchange, "parallel.tp=2", "parallel.world=8")


def test_full_recomputation_is_of_the_layers_and_not_of_a_prediction_module() -> None:
    """Megatron-LM --recompute-granularity full: its transformer block's layers."""
    spec = model(num_nextn_predict_layers=1)
    full = beside_the_head(spec, ("activations.recompute=[full]",))
    assert full.activation == beside_the_head(spec).activation


def test_one_uneven_layer_costs_nothing_where_the_optimizers_step_is_the_peak() -> None:
    """Two tokens and 30,000 words: 8 bytes a parameter of the step against 14·2 of the loss's, a word."""
    sizes = ("precision.optimizer=adamw-precision-aware", "batch.seq=2", "activations.cross_entropy=chunked")
    run = planned(model("moe", vocab_size=30_000), *sizes, "parallel.ep=2", "parallel.world=2", "parallel.zero=0")
    peaks = {row["case"]: row["peak_bytes"] for row in imbalances(run)}
    assert peaks["worst case once: in one layer of one micro-batch"] == peaks["as planned"]


def test_a_replica_holds_whole_groups_of_both_kinds_and_a_step_its_share_of_the_sequences() -> None:
    one_stage = ("parallel.pp=1", "parallel.vpp=1", "schedule.kind=1f1b", "schedule.extra_warmup=0")
    p = k2_plan(*one_stage, "parallel.tp=3", "parallel.ep=2", "parallel.world=6", "batch.micro_batch=2")
    assert p.parallel.replica == 6  # groups of 3, and of 2
    assert (p.parallel.dense_dp, p.parallel.expert_dp) == (2, 3)
    assert p.micro_batches == 16_384 // 2 // 2  # sequences of 4096, over two devices, two at a time
    wide = k2_plan(*one_stage, "parallel.tp=3", "parallel.ep=2", "parallel.etp=3", "parallel.world=6")
    assert wide.parallel.expert_dp == 1
