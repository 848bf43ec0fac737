"""What offloading asks of the host."""

import pytest

from archcalc.errors import InputError
from archcalc.hardware import load_hardware
from archcalc.training.offload import offload_need
from tests.training.plans import k2_plan, ranks, run_of
from tests.training.test_placement import EXPERT_PARAMS

T = 4096


def need(*options: str) -> dict[str, float]:
    plan = k2_plan(*options)
    rows = offload_need(run_of("kimi-k2", plan), ranks("kimi-k2", *options)[1], load_hardware(plan.hardware))
    assert all(row["path"] == row["term"] for row in rows)
    return {row["term"]: row["value"] for row in rows}


def test_k2s_worst_rank() -> None:
    """46 chunks alive, whose two layers are 2 x 4096 x 148,484 bytes; when a backward starts, the last layer of its
    chunk and the one before it are on the device; 8 devices a node."""
    found, layer = need(), T * 148_484
    chunk = 2 * layer
    # whole bytes, divided once: the same fraction to the last bit
    assert found["host memory of one GPU"] == (46 * 2 - 2) * layer / 1e9
    assert found["host memory of a node"] == 8 * (46 * 2 - 2) * layer / 1e9
    assert found["copied out, and back, a chunk"] == chunk / 1e9
    links = load_hardware("h800").links
    assert links is not None
    assert found["PCIe bandwidth, one direction"] == links.pcie_bytes_per_s / 1e9
    assert found["time of one copy"] == pytest.approx(chunk / links.pcie_bytes_per_s * 1e3)
    assert found["copied out, and back, a layer"] == layer / 1e9
    assert found["time of one copy of a layer"] == pytest.approx(layer / links.pcie_bytes_per_s * 1e3)
    assert found["compute of a layer, forward"] == pytest.approx(
        found["compute of a chunk, forward and backward"] / (3 * 2)
    )
    assert found["layers that compute while one is copied"] == pytest.approx(
        found["time of one copy of a layer"] / found["compute of a layer, forward"]
    )


def test_compute_hides_the_copies_or_part_of_them() -> None:
    """Two MoE layers forward and backward: 3·2·T·(2·(101,122,048 + 7168·384 + 27·7168·2048) + 64·320·4096)
    FLOPs at 40 % of the dense bf16 peak."""
    found = need()
    flops = 6 * T * (2 * (101_122_048 + 7168 * 384 + 27 * 7168 * 2048) + 64 * 320 * 4096)
    seconds = flops / (0.4 * load_hardware("h800").peak_flops["bfloat16"])
    assert found["compute of a chunk, forward and backward"] == pytest.approx(seconds * 1e3)
    # bytes of a chunk in the time that it computes: 1e9 of them a second are a GB/s
    assert found["bandwidth needed to hide it"] == pytest.approx(2 * T * 148_484 / seconds / 1e9, rel=1e-12)
    assert found["copies hidden by compute"] == 100
    starved = need("memory.compute_utilization=1.0", "activations.fp8=[]", "activations.recompute=[]")
    assert starved["copies hidden by compute"] < 100
    assert starved["copies hidden by compute"] == pytest.approx(
        100 * starved["compute of a chunk, forward and backward"] / starved["time of one copy"]
    )


def test_no_offload_asks_nothing() -> None:
    assert need("activations.offload=none") == {}


def test_an_offloaded_optimizer_asks_for_host_memory_beside_activations() -> None:
    """Rank 1 of 256: Muon's states, and 4 bytes of gradient of each expert's parameter, of the largest matrix, which 4
    of 16 devices have alone, one a layer (64·128 x 7168), and of a 16th of the four layers' norms."""
    static = ranks("kimi-k2", "memory.optimizer_offload=1.0")[1].static
    alone = need("memory.optimizer_offload=1.0", "activations.offload=none")
    assert list(alone.values()) == pytest.approx([static.host / 1e9] * 2 + [8 * static.host / 1e9])
    both, acts = need("memory.optimizer_offload=1.0"), need()
    assert both["host memory of one GPU"] == pytest.approx(acts["host memory of one GPU"] + static.host / 1e9)
    assert both["time of one copy"] == acts["time of one copy"]
    kept = ranks("kimi-k2")[1].static
    norms = 4 * (2 * 7168 + 1536 + 512) // 16
    assert static.host == kept.optimizer + 4 * (EXPERT_PARAMS[1] + 64 * 128 * 7168 + norms)


def test_groups_ask_for_their_own_bytes_only() -> None:
    """fc1's input in FP8: 8·7168·33/32 bytes a token and layer."""
    found = need("activations.offload=expert_fc1")
    assert found["copied out, and back, a chunk"] == pytest.approx(2 * T * 8 * 7168 * 33 / 32 / 1e9)


def test_a_device_without_a_bf16_peak_can_not_say_what_hides_the_copies() -> None:
    h800 = load_hardware("h800")
    bare = h800.model_copy(update={"peak_flops": {"float16": h800.peak_flops["bfloat16"]}})
    run = run_of("kimi-k2", k2_plan())
    with pytest.raises(InputError, match="h800 has no peak FLOP/s in bfloat16") as error:
        offload_need(run, ranks("kimi-k2")[1], bare)
    assert error.value.hint == "add peak_flops.bfloat16 to the hardware file, or set activations.offload=none"
    assert offload_need(run_of("kimi-k2", k2_plan("activations.offload=none")), ranks("kimi-k2")[1], bare) == []
