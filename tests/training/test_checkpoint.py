"""Bytes of a training checkpoint, in all and by rank; TINY's tensors by hand.

In elements: q and o 96, k and v 48, gate, up and down of the dense block 160, three norms 8, embedding and head 256:
1304 in all.
"""

from __future__ import annotations

import pytest

from archcalc.documents.train import train_quantities, train_report
from archcalc.documents.weights import weights
from archcalc.files.model import Spec
from archcalc.training.checkpoint import checkpoints
from archcalc.training.memory import training_memory
from tests.training.plans import k2_plan, spec
from tests.training.test_small_models import LAST_RANK, ONE_DEVICE, model, planned

ADAMW = "precision.optimizer=adamw"


def by_rank(made: Spec, *overrides: str) -> tuple[int, list[int]]:
    """The whole, and what the fullest device of each rank writes."""
    run = planned(made, *overrides)
    found = training_memory(run)
    return int(train_quantities(run, found)["train.checkpoint_bytes"]), checkpoints(run)


def test_one_device_writes_every_weight_and_its_states_once() -> None:
    assert by_rank(model(), ADAMW) == (14 * 1304, [14 * 1304])
    assert by_rank(model(), ADAMW, "precision.params=fp32")[0] == 16 * 1304


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_data_parallel_devices_write_whole_tensors_of_weights_and_slices_of_states(zero: int) -> None:
    """Four devices, the largest tensors first: 256 + 96, 256 + 48 + 8 + 8, 160 + 160, 160 + 96 + 48 + 8."""
    total, (fullest,) = by_rank(model(), ADAMW, "parallel.world=4", f"parallel.zero={zero}")
    assert total == 14 * 1304
    assert fullest == 12 * 1304 // 4 + 2 * (256 + 96)


def test_zero_3_writes_slices_of_weights_too() -> None:
    assert by_rank(model(), ADAMW, "parallel.world=4", "parallel.zero=3")[1] == [14 * 1304 // 4]


def test_experts_are_handed_out_one_by_one_among_those_that_have_them() -> None:
    """ep 2, 4 devices: of nine matrices of 40 the fuller of two writes five. All else over four: embedding 256, head
    256, 96 96 48 48, router 48, shared 40 40 40, norms 8 8 8: 256, 256, 96 + 48 + 48 + 40, 96 + 48 + 40 + 40 + 3 x 8 in
    some order, so 256 is the most. The router's bias, 6 x 4 bytes, is less than what that leaves."""
    experts = ("parallel.ep=2", "parallel.world=4", ADAMW)
    states = training_memory(planned(model("moe"), *experts))[0].static.optimizer
    assert by_rank(model("moe"), *experts)[1] == [states + 2 * 5 * 40 + 2 * 256]


def test_what_two_ranks_hold_the_first_one_writes_and_both_its_states() -> None:
    """A prediction module's embedding: the second rank's copy has states, 12 bytes of 256."""
    total, (first, last) = by_rank(model(num_nextn_predict_layers=1), *LAST_RANK, ADAMW)
    assert first + last == total + 12 * 256


def test_weights_in_fp8_are_written_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron-LM dequantizes them (core/dist_checkpointing/utils.py, force_all_tensors_to_non_fp8). No product in FP8
    takes matrices as small as these."""
    monkeypatch.setattr("archcalc.training.run.illegal", lambda plan, model, stack: ())
    native = ("precision.fp8=delayed", "precision.fp8_params=true", "hardware=h100")
    assert by_rank(model(), ADAMW, *native) == (14 * 1304, [14 * 1304])


def test_states_on_the_host_are_written_all_the_same_and_frozen_weights_have_none() -> None:
    assert by_rank(model(), ADAMW, "memory.optimizer_offload=0.5") == (14 * 1304, [14 * 1304])
    frozen = by_rank(model(), ADAMW, "train.embedding=frozen", "train.head=frozen")
    assert frozen == (14 * 1304 - 12 * 512, [14 * 1304 - 12 * 512])


@pytest.mark.parametrize("name", ["kimi-k2", "deepseek-v3", "gemma-3-27b"])
def test_the_weights_command_says_the_same_of_a_plan_that_trains_everything_in_bf16(name: str) -> None:
    plan = k2_plan(*ONE_DEVICE, "precision.optimizer=muon")
    found = train_report(spec(name), plan)
    same = weights(spec(name), optimizer="muon").quantities["weights.training_checkpoint_bytes"]
    assert found.quantities["train.checkpoint_bytes"] == same
    assert found.rows is not None
    assert [row["checkpoint_bytes"] for row in found.rows.rows] == [same]
