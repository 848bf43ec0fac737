"""Training under layers of several kinds: what takes turns, two mixtures of experts, and ends that MTP shares."""

from __future__ import annotations

import copy
from typing import Any

from archcalc.calc.sharding import Shards
from archcalc.files.model import Spec
from archcalc.tape import Tape
from archcalc.training.placement import held_weights
from archcalc.training.run import compiled
from archcalc.training.savers import savers
from archcalc.training.transient import routed_copies
from archcalc.workload import Workload
from tests.support import TINY, spec_of
from tests.training.plans import chunk, k2_plan

HOW = savers(kernels="fused", router_probs="out", recompute=(), fp8=(), cross_entropy="te")
SMALL, BIG = ({"attention": "gqa", "ffn": name} for name in ("small", "big"))


def model(layers: list[dict[str, Any]], **backbone: Any) -> Spec:
    plain = copy.deepcopy(TINY)
    dense = plain["backbone"]["ffn"]["dense"]
    plain["backbone"] |= {
        "layers": layers,
        "num_hidden_layers": len(layers),
        "ffn": {"small": dense, "big": dense | {"intermediate_size": 4000}},
    } | backbone
    return spec_of(plain)


def taped(spec: Spec, seq: int = 64) -> Tape:
    return spec.trace(Workload(phase="train", seq=seq))


def on_one_rank(tape: Tape) -> Any:
    sizes = ("pp=1", "vpp=1", "ep=1", "world=1")
    one = k2_plan(*(f"parallel.{each}" for each in sizes), "schedule.kind=1f1b", "schedule.extra_warmup=0")
    (rank,) = compiled(tape, one).ranks
    (pieces,) = rank.chunks
    return pieces


def test_the_last_layer_of_a_chunk_runs_backward_beside_all_that_stands_before_it() -> None:
    """The order of the layers decides what is still alive, not the order in which kinds first appear."""

    def backward(*order: dict[str, Any]) -> int:
        tape = taped(model([{"count": 1, **each} for each in order]))
        return chunk(tape, on_one_rank(tape), Shards(), HOW).backward

    in_order, in_turns = backward(SMALL, SMALL, BIG, BIG), backward(BIG, SMALL, SMALL, BIG)
    assert in_turns == in_order  # both end with a big layer, when nothing has been freed
    assert backward(BIG, BIG, SMALL, SMALL) < in_order  # here two small ones have been


def test_a_chunk_lists_layers_that_take_turns_as_often_as_they_do() -> None:
    tape = taped(model([{"count": 1, **each} for each in (SMALL, BIG, BIG, SMALL)]))
    kinds = [tape.segments[n].indices for n, count in on_one_rank(tape) for _ in range(count)]
    assert kinds == [(), (0, 3), (1, 2), (1, 2), (0, 3), ()]


def test_of_two_mixtures_in_a_layer_the_larger_counts_wherever_it_stands() -> None:
    moe = TINY["backbone"]["ffn"]["moe"]
    both = {"one": moe | {"num_experts_per_tok": 1}, "four": moe | {"num_experts_per_tok": 4}}

    def copies(*order: str) -> int:
        steps = [{"attention": "gqa"}] + [
            {"ffn": name, "scope": f"mlp_{name}", "input_norm": f"norm_{name}"} for name in order
        ]
        spec = model([{"count": 1, "steps": steps}], ffn=both)
        segment = next(s for s in taped(spec).segments if s.indices)
        return routed_copies(segment, Shards(ep=2), set())

    assert copies("one", "four") == copies("four", "one")


def test_a_prediction_rank_holds_embedding_and_head_and_no_position_table() -> None:
    spec = model(
        [{"count": 2, **SMALL}],
        num_hidden_layers=2,
        ffn={"small": TINY["backbone"]["ffn"]["dense"]},
        num_nextn_predict_layers=1,
        position_embeddings=64,
    )
    tape = taped(spec)
    last = tuple((n, s.count) for n, s in enumerate(tape.segments) if s.part == "mtp")
    held = {w.path for w, _ in held_weights(tape, (last,), decoupled=False)}
    assert {"model.embed_tokens", "lm_head"} <= held
    assert "model.embed_positions" not in held
