"""Parameters of every device against torch's own DTensor, on a fake process group of up to 256 devices."""

from __future__ import annotations

from typing import Any

import pytest

from archcalc.documents.train import run_of
from archcalc.reference.model import build
from archcalc.reference.placement import Devices, held
from archcalc.training.memory import training_memory
from tests.reference import tiny
from tests.support import spec_of
from tests.training.plans import k2_plan

BF16 = 2


def whole(plain: dict[str, Any]) -> dict[str, Any]:
    """A tiny architecture as a file that archcalc reads."""
    sections = [key for key in ("backbone", "vision", "projector") if key in plain]
    more = {
        "title": "Tiny",
        "sources": dict.fromkeys((*sections, "storage"), "made up"),
        "storage": {"default": {"scheme": "plain", "dtype": "bfloat16"}},
        "claims": [],
    }
    return plain | more


BIASES = {"attention_bias": True, "attention_out_bias": True}
MODELS = {
    "grouped queries": tiny.text(tiny.GQA, [tiny.DENSE] * 6, vocab_size=64),
    "biases": tiny.text(tiny.GQA | BIASES, [tiny.DENSE | {"mlp_bias": True}] * 2, vocab_size=64),
    "positions": tiny.text(tiny.GQA, [tiny.DENSE] * 2, vocab_size=64, position_embeddings=128, rope_theta=None),
    "experts": tiny.text(tiny.MLA, [tiny.DENSE, *[tiny.MOE] * 3], vocab_size=64),
    "prediction": tiny.text(tiny.MLA, [tiny.DENSE, tiny.MOE], vocab_size=64, num_nextn_predict_layers=1),
    "tied": tiny.text(tiny.GQA, [tiny.DENSE] * 4, vocab_size=64, tie_word_embeddings=True),
    "a tower": tiny.k25(vocab_size=64),
}
"""6 layers, 2, 2, 4, 2, 4; the tower's model has 3."""


@pytest.mark.parametrize(
    ("name", "stages", "devices"),
    [
        ("grouped queries", [range(6)], Devices(world=1)),
        ("grouped queries", [range(2), range(2, 4), range(4, 6)], Devices(world=192, pp=3, tp=4)),  # 2 heads, 4 devices
        ("grouped queries", [range(1), range(1, 6)], Devices(world=16, pp=2, tp=2)),
        ("biases", [range(2)], Devices(world=8, tp=2)),
        ("positions", [range(1), range(1, 2)], Devices(world=4, pp=2, tp=2)),
        ("experts", [range(2), range(2, 4)], Devices(world=256, pp=2, tp=2, ep=8)),
        ("experts", [range(2), range(2, 4)], Devices(world=256, pp=2, tp=4, ep=8, etp=4)),
        ("experts", [range(4)], Devices(world=32, tp=1, ep=4, etp=2)),
        ("prediction", [range(1), range(1, 2)], Devices(world=64, pp=2, tp=2, ep=4)),
        ("tied", [range(2), range(2, 4)], Devices(world=8, pp=2, tp=2)),
        ("a tower", [range(1), range(1, 3)], Devices(world=32, pp=2, tp=2, ep=4)),
    ],
)
def test_every_device_holds_what_torch_puts_there(name: str, stages: list[range], devices: Devices) -> None:
    plain = whole(MODELS[name])
    axes = {"world": devices.world, "pp": devices.pp, "tp": devices.tp, "ep": devices.ep, "etp": devices.etp, "vpp": 1}
    plan = k2_plan(
        *(f"parallel.{axis}={size}" for axis, size in axes.items()),
        f"parallel.sp={str(devices.tp > 1).lower()}",
        f"parallel.layout={[len(stage) for stage in stages]}",
        *("schedule.kind=1f1b", "schedule.extra_warmup=0", "batch.seq=256", "activations.offload=none"),
    )
    ours = [rank.static.params for rank in training_memory(run_of(spec_of(plain), plan))]
    model = build(plain)
    per_stage = devices.world // devices.pp
    some = sorted(
        {0, 1, devices.tp - 1, devices.ep * devices.etp - 1, per_stage // 2, per_stage - 1} & {*range(per_stage)}
    )
    for stage, expected in enumerate(ours):
        for place in some:
            found = held(model, devices, stages, stage * per_stage + place)
            assert BF16 * sum(found.values()) == expected


def test_torch_cuts_a_vocabulary_into_uneven_pieces_and_megatron_pads_it() -> None:
    """50 words over 4: torch.chunk gives 13, 13, 13 and 11; Megatron-LM pads to 512, 128 a device."""
    model, devices = build(tiny.text(tiny.GQA, [tiny.DENSE])), Devices(world=4, tp=4)
    words = [held(model, devices, [range(1)], rank)["lm_head.weight"] // 40 for rank in range(4)]
    assert words == [13, 13, 13, 11]
    sizes = ("world=4", "pp=1", "vpp=1", "tp=4", "sp=true", "ep=1", "layout=auto")
    plan = k2_plan(
        *(f"parallel.{size}" for size in sizes), "schedule.kind=1f1b", "schedule.extra_warmup=0", "batch.seq=256"
    )
    (rank,) = training_memory(run_of(spec_of(whole(tiny.text(tiny.GQA, [tiny.DENSE]))), plan))
    same = {
        path: n for path, n in held(model, devices, [range(1)], 0).items() if "embed" not in path and "head" not in path
    }
    assert rank.static.params == BF16 * (sum(same.values()) + 2 * 128 * 40)
