"""The twin's side: what torch says about the model built from the spec's plain mapping, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from archcalc.proof.ours import CACHE, CACHE_DTYPES, IMAGE, PIPELINE, SCHEDULES, SEQ, SETTINGS, schedule_setting
from archcalc.proof.sides import Side, Sides, single
from archcalc.reference import measure, orders, pixels
from archcalc.reference.fields import Section
from archcalc.reference.flops import flops as step_flops
from archcalc.reference.model import build, prediction_paths
from archcalc.reference.saved import measure as saved
from archcalc.reference.threads import one_thread

Plain = Mapping[str, Any]
Progress = Callable[[str], None]


def their_sides(plain: Plain, kinds: Iterable[str], progress: Progress) -> Sides:
    """Every kind that is asked for. Raises InputError for a spec that the twin can't build."""
    sides: Sides = {}
    with one_thread():
        progress("building the twin on the meta device")
        model = build(plain)
        for kind in kinds:
            progress(f"measuring {kind}")
            sides |= THEIRS[kind](plain, model)
    return sides


def weights_by_path(plain: Plain, model: Any) -> Sides:
    """Every parameter and stored buffer, by module path."""
    return by_kind(measure.parameters(model))


def by_kind(rows: Iterable[Mapping[str, Any]]) -> Sides:
    """Rows of weights as sides; a prediction module's buffers are buffers."""
    sides: Sides = {"params": {}, "buffers": {}, "mtp": {}}
    for row in rows:
        kind = "buffers" if row["kind"].endswith("buffers") else row["kind"]
        sides[kind][row["path"], ""] = (row["count"], row["elements"])
    return sides


def flops(plain: Plain, model: Any) -> Sides:
    """A whole training step and a whole decode step, run on meta."""
    images = (IMAGE,) if plain.get("vision") else ()
    train = step_flops(plain, seq=SEQ, images=images, backward=True, model=model)
    more = train
    if prediction_paths(model):
        more = step_flops(plain, seq=SEQ, images=images, backward=True, mtp=True, model=model)
    decode = step_flops(plain, seq=1, context=SEQ - 1, mla="absorbed", model=model)
    side: Side = {}
    for path, (forward, backward) in train.items():
        side[path, "train forward"] = (1, forward)
        side[path, "train backward"] = (1, backward)
    for path, (forward, backward) in more.items():  # what the prediction modules add, the shared head's calls among it
        before = train.get(path, (0, 0))
        if forward != before[0]:
            side[path, "prediction forward"] = (1, forward - before[0])
            side[path, "prediction backward"] = (1, backward - before[1])
    return {"flops": side | single([(path, forward) for path, (forward, _) in decode.items()], "decode forward")}


def kv(plain: Plain, model: Any) -> Sides:
    """Caches, really allocated (on meta)."""
    batch, context = CACHE
    side: Side = {}
    for dtype in CACHE_DTYPES:
        held = measure.kv_bytes(plain, batch=batch, context=context, dtype=dtype, model=model)
        side |= single(held.items(), dtype)
    return {"kv": side}


def weights(plain: Plain, model: Any) -> Sides:
    """The whole state dict in bf16."""
    return {"weights": single([("state_dict", measure.state_dict_bytes(model))], "bf16")}


def activations(plain: Plain, model: Any) -> Sides:
    """What autograd is given to keep by one of each segment, in every setting."""
    patches = 0
    if plain.get("vision"):
        grids = pixels.grids(Section(plain["vision"], "vision"), [IMAGE], [])
        patches = sum(frames * height * width for frames, height, width in grids)
    side: Side = {}
    for setting in SETTINGS:
        kept = saved(
            plain,
            seq=SEQ,
            patches=patches if setting.plain else 0,
            kernels=setting.kernels,
            core=setting.core,
            router_probs=setting.router_probs,
            recompute=frozenset(setting.recompute),
            fp8=frozenset(setting.fp8),
            hidden_dropout=setting.dropout[0],
            attention_dropout=setting.dropout[1],
            deterministic=setting.deterministic,
            rope=setting.rope,
        )
        side |= single(kept.items(), str(setting))
    return {"activations": side}


def schedule(plain: Plain, model: Any) -> Sides:
    """The most chunks alive on every rank in torch's own orders, replayed.

    A schedule that this torch has not is left out, and so differs.
    """
    side: Side = {}
    for kind in SCHEDULES:
        if kind in orders.KINDS:
            order = orders.torch_order(kind, PIPELINE.pp, PIPELINE.vpp, PIPELINE.micro_batches)
            alive = [(f"{kind}.rank.{rank}", _most_alive(actions)) for rank, actions in order.items()]
            side |= single(alive, schedule_setting())
    return {"schedule": side}


def _most_alive(actions: Iterable[tuple[str, int, int]]) -> int:
    """A chunk lives from its forward to the end of its (input gradient's) backward."""
    alive = most = 0
    for kind, _, _ in actions:
        alive += kind == "F"
        most = max(most, alive)
        alive -= kind in ("B", "I")
    return most


THEIRS: dict[str, Callable[[Plain, Any], Sides]] = {
    "params": weights_by_path,
    "flops": flops,
    "kv": kv,
    "weights": weights,
    "activations": activations,
    "schedule": schedule,
}
"""The twin's side by kind: the same keys as ours."""
