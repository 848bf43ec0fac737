"""What frozen and adapted layers keep: torch's own autograd on the twin, and the tape, to the byte."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from archcalc.calc.activations import saved_bytes
from archcalc.calc.sharding import Shards
from archcalc.reference.saved import measure
from archcalc.reference.training import Training
from archcalc.tape import Segment
from archcalc.training.parts import Train, trained_tape
from archcalc.training.savers import savers
from archcalc.workload import Workload
from tests.reference import tiny
from tests.support import spec_of

pytestmark = pytest.mark.twin

SEQ, RANK = 32, 4
MIXERS = {
    "gqa": tiny.GQA | {"head_dim": 16, "qk_norm": "per_head"},
    "biased": tiny.GQA | {"head_dim": 16, "attention_bias": True, "attention_out_bias": True},
    "gated": tiny.GQA | {"head_dim": 16, "output_gate": "elementwise"},
    "mla": tiny.MLA,
    "indexer": tiny.MLA | {"indexer": tiny.INDEXER},
    "delta": tiny.DELTA,
    "kda": tiny.KDA,
}
BLOCKS = {
    "dense": tiny.DENSE,
    "plain": tiny.DENSE | {"gated": False, "hidden_act": "gelu", "mlp_bias": True},
    "moe": tiny.MOE,
    "gated shared": tiny.MOE | {"shared_expert_gate": True},
    "biased experts": tiny.MOE | {"expert_bias": True, "router_bias": "trained"},
}
PAIRS = [*((mixer, "dense") for mixer in MIXERS), *(("gqa", block) for block in BLOCKS if block != "dense")]
WAYS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "full": ({}, {}),
    "embedding frozen": ({"embedding": "frozen"}, {"embedding": False}),
    "layers frozen": ({"backbone": "frozen", "embedding": "full"}, {"layers": False, "head": False}),
    "head alone": ({"backbone": "frozen", "head": "full"}, {"layers": False, "embedding": False}),
    "all frozen": ({"backbone": "frozen"}, {"layers": False, "embedding": False, "head": False}),
    "adapters": (
        {"backbone": f"lora({RANK})"},
        {"layers": False, "embedding": False, "head": False, "rank": RANK},
    ),
    "adapters and embedding": (
        {"backbone": f"lora({RANK})", "embedding": "full"},
        {"layers": False, "head": False, "rank": RANK},
    ),
}
KERNELS = [("fused", "act", "flash"), ("eager", "out", "flash"), ("eager", "act", "unfused")]


def two_layers(mixer: str, block: str, **backbone: Any) -> dict[str, Any]:
    plain = tiny.text(MIXERS[mixer], [BLOCKS[block]], **backbone)
    plain["backbone"] |= {"num_hidden_layers": 2} | backbone
    plain["backbone"]["layers"][0]["count"] = 2
    return deepcopy(plain | {"title": "Tiny", "sources": {}, "storage": tiny_storage()})


def tiny_storage() -> dict[str, Any]:
    return {"default": {"scheme": "plain", "dtype": "bfloat16"}}


def entries(train: Train) -> tuple[bool, bool]:
    """Whether the first layer's input has a gradient, and the last norm's."""
    ways = train.ways
    first = ways["embedding"].kind == "full"
    return first, first or ways["backbone"].kind != "frozen"


Sides = tuple[dict[str, int], dict[str, int]]


def both(plain: dict[str, Any], how: str, kernels: tuple[str, str, str], **options: Any) -> Sides:
    """Bytes of embedding, first layer, second layer and head: the tape's, the twin's."""
    given, theirs = WAYS[how]
    train = Train.model_validate(given)
    tape = trained_tape(spec_of(plain).trace(Workload(phase="train", seq=SEQ)), train)
    kernel, probs, core = kernels
    keep = savers(kernels=kernel, core=core, router_probs=probs, cross_entropy=kernel, **options)
    regions: dict[str, Any] = {name: frozenset(names) for name, names in options.items()}

    def ours(segment: Segment) -> int:
        return saved_bytes(segment, Shards(), keep)

    embedding, *layers, head = tape.segments
    by_layer = {i: ours(segment) for segment in layers for i in segment.indices}
    tape_side = {"embedding": ours(embedding), "first": by_layer[0], "second": by_layer[1], "head": ours(head)}

    def twin(*, entry: bool) -> dict[str, int]:
        training = Training(**theirs, entry=entry)
        return measure(plain, seq=SEQ, training=training, kernels=kernel, core=core, router_probs=probs, **regions)

    first, last = entries(train)
    one, two = twin(entry=first), twin(entry=last)
    twin_side = {
        "embedding": one["model.embed_tokens"],
        "first": one["model.layers.0"],
        "second": two["model.layers.0"],
        "head": two["lm_head"],
    }
    return tape_side, twin_side


@pytest.mark.parametrize("kernels", KERNELS, ids="-".join)
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(("mixer", "block"), PAIRS, ids="-".join)
def test_the_tape_keeps_what_autograd_keeps(mixer: str, block: str, how: str, kernels: tuple[str, str, str]) -> None:
    ours, theirs = both(two_layers(mixer, block), how, kernels)
    assert ours == theirs


RECOMPUTE = ("layernorm", "swiglu", "mla_up_proj", "moe_down_proj", "core_attn", "mlp", "moe", "shared_experts", "full")


@pytest.mark.parametrize("how", ["layers frozen", "adapters and embedding"])
@pytest.mark.parametrize(("mixer", "block"), [("gqa", "dense"), ("mla", "dense"), ("gqa", "moe")], ids="-".join)
def test_what_is_recomputed_or_in_fp8_is_dropped_beside_adapters_too(mixer: str, block: str, how: str) -> None:
    plain, fused = two_layers(mixer, block), KERNELS[0]
    fp8 = ["moe_up_proj_input", "swiglu_input"]
    for recompute in (*([name] for name in RECOMPUTE), list(RECOMPUTE[:4])):
        ours, theirs = both(plain, how, fused, recompute=recompute)
        assert ours == theirs, recompute
    ours, theirs = both(plain, how, fused, recompute=list(RECOMPUTE[:4]), fp8=fp8)
    assert ours == theirs
