"""Optimizer states by name, and their shards; Kimi K2's figures from its parameter counts."""

import pytest

from archcalc.errors import InputError
from archcalc.tape import Weight
from archcalc.training.optimizer import OPTIMIZERS, optimizer, orthogonalized
from tests.training.plans import k2_plan, ranks, tape_of
from tests.training.test_placement import DENSE_PARAMS, EMBED, EXPERT_PARAMS, MOE

MATRIX = 7168 * 2048  # one projection of an expert: 14,680,064


def weights() -> list[Weight]:
    return tape_of("kimi-k2", k2_plan()).weights()


@pytest.mark.parametrize(
    ("name", "matrix", "vector"),
    [
        ("adamw", 12, 12),  # fp32 master, m, v: Megatron-LM's 18 bytes less weight and gradient
        ("adamw-bf16-moments", 8, 8),
        ("adamw-param-remainders", 10, 10),  # 16 more bits of the weight instead of a master
        ("adamw-precision-aware", 6, 6),
        ("adam-8bit", 6, 6),
        ("muon", 8, 12),  # no second moment for matrices; the rest is AdamW's
        ("muon-bf16-momentum", 6, 8),
        ("sgd", 8, 8),
    ],
)
def test_bytes_a_parameter(name: str, matrix: int, vector: int) -> None:
    found = {w.path.rpartition(".")[2]: w for w in weights() if w.trainable}
    how = OPTIMIZERS[name]
    for ending in ("q_b_proj", "o_proj", "gate"):
        assert how.state_bytes(found[ending]) == matrix, ending
    for ending in ("embed_tokens", "lm_head", "input_layernorm", "norm"):
        assert how.state_bytes(found[ending]) == vector, ending


@pytest.mark.parametrize(
    ("name", "matrix", "vector"),
    [
        ("adamw", 8, 8),  # m and v; Megatron-LM clones the master when it builds its shards
        ("adamw-bf16-moments", 4, 4),
        ("adamw-param-remainders", 10, 10),  # FusedAdam holds the remainders: its first step makes them too
        ("adamw-precision-aware", 6, 6),
        ("muon", 4, 8),
        ("sgd", 4, 4),
    ],
)
def test_bytes_a_parameter_that_the_first_step_makes(name: str, matrix: int, vector: int) -> None:
    found = {w.path.rpartition(".")[2]: w for w in weights() if w.trainable}
    assert [OPTIMIZERS[name].late_bytes(found[key]) for key in ("o_proj", "norm")] == [matrix, vector]


def test_each_expert_is_a_matrix_of_its_own() -> None:
    experts = [w for w in weights() if w.stack]
    assert len(experts) == 3
    assert all(orthogonalized(w) for w in experts)


def test_an_unknown_name_suggests_the_near_miss() -> None:
    with pytest.raises(InputError) as error:
        optimizer("moun")
    assert error.value.hint == "did you mean muon?"


@pytest.mark.parametrize(("rank", "gb"), [(0, 3.36), (1, 6.40), (14, 4.80), (15, 4.91)])
def test_adamw_over_2048_devices(rank: int, gb: float) -> None:
    """12 bytes a parameter: dense weights over 128 devices, experts over 8."""
    got = ranks("kimi-k2", "parallel.world=2048", "precision.optimizer=adamw")[rank].static.optimizer
    assert got == -(-12 * DENSE_PARAMS[rank] // 128) + -(-12 * EXPERT_PARAMS[rank] // 8)
    assert round(got / 1e9, 2) == gb


@pytest.mark.parametrize(("rank", "gb"), [(0, 18.19), (1, 34.12), (14, 25.59), (15, 26.47)])
def test_muon_over_256_devices(rank: int, gb: float) -> None:
    """Experts whole: 8 bytes. Dense weights over 16 devices: matrices whole, the rest in slices, so a little
    over the mean."""
    got = ranks("kimi-k2")[rank].static.optimizer
    ends = EMBED if rank in (0, 15) else 0
    mean = 8 * EXPERT_PARAMS[rank] + (8 * (DENSE_PARAMS[rank] - ends) + 12 * ends) / 16
    assert round(mean / 1e9, 2) == gb
    assert mean < got < mean + 8 * 7168 * 18432  # at most one matrix more (the dense layer's are the largest)


def test_muon_hands_out_whole_matrices() -> None:
    """World 2048, rank 1: 4 layers x 24 experts x 3 = 288 matrices over 8 devices, 36 each; dense matrices
    over 128: fewer of them than devices, so the fullest device has one o_proj [7168 x 8192]; norms in slices
    at 12 bytes."""
    got = ranks("kimi-k2", "parallel.world=2048")[1].static.optimizer
    norms = 4 * (2 * 7168 + 1536 + 512)
    assert got == 36 * 8 * MATRIX + 8 * 7168 * 8192 + -(-12 * norms // 128)
    mean = 8 * EXPERT_PARAMS[1] / 8 + 8 * DENSE_PARAMS[1] / 128
    assert round(mean / 1e9, 2) == 4.26  # what even slices would give


def test_muons_whole_layout_holds_all_of_an_embeddings_states_on_one_device() -> None:
    """AdamW's 12 bytes of 163,840 x 7168 words: 14.1 GB, where slices over 16 devices are 0.9 GB each. Experts are the
    same: no other device of 256 has them. The next device has the dense layer's gate and up, no end and no more."""
    whole = ranks("kimi-k2", "precision.muon_layout=whole")[0].static.optimizer
    sliced = ranks("kimi-k2")[0].static.optimizer
    assert round(12 * EMBED / 1e9, 1) == 14.1
    assert round(12 * EMBED / 16 / 1e9, 1) == 0.9
    assert 12 * EMBED < whole - 8 * EXPERT_PARAMS[0] < 12 * EMBED + 8 * 2 * 7168 * 18432
    assert sliced < 8 * EXPERT_PARAMS[0] + 12 * EMBED // 16 + 8 * 2 * 7168 * 18432


def test_muons_step_takes_four_times_its_largest_matrix() -> None:
    held = ranks("kimi-k2")
    assert held[0].static.step == 4 * 2 * 7168 * 18432  # a projection of the dense layer, bf16
    assert held[1].static.step == 4 * 2 * 7168 * 8192  # o_proj


def test_bf16_gradients_are_copied_to_fp32_for_optimizers_that_need_it() -> None:
    bf16 = ("precision.grads=bf16",)
    plain = ranks("kimi-k2", "precision.optimizer=adamw", *bf16)[1].static
    assert plain.step == 4 * EXPERT_PARAMS[1] + 4 * (4 * MOE) // 16
    assert ranks("kimi-k2", "precision.optimizer=adamw")[1].static.step == 0
    assert ranks("kimi-k2", "precision.optimizer=adamw-bf16-moments", *bf16)[1].static.step == 0


def test_precision_aware_moments_widen_one_parameter_group_at_a_time() -> None:
    """Two fp32 moments of the larger group, the experts."""
    rank = ranks("kimi-k2", "precision.optimizer=adamw-precision-aware", "activations.offload=all")[1]
    assert rank.static.step == 8 * EXPERT_PARAMS[1]
    assert rank.moment == "optimizer step"
    messages = 2 * 2 * 4096 * 7168 * 2  # of two chunks the last input and its gradient, in bf16
    assert (rank.activation, rank.transient) == (0, 8 * EXPERT_PARAMS[1] + messages)
    assert rank.total > rank.running
