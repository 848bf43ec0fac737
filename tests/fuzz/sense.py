"""Laws that hold of every answer, whatever is asked: each draws a question from a seed and says what is wrong with the
answer, or nothing. A question that is refused says nothing of the law."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

from tests.fuzz.asking import ask, changed, drawn, report, small
from tests.fuzz.documents import document, names
from tests.fuzz.mutate import places
from tests.fuzz.values import alike, near

Law = Callable[[Random], str | None]

TEXT, PICTURES = ("--seq", "64"), ("--image", "56x56")
ASKED = (("params",), ("weights",), ("kv", "--context", "64"), ("flops", *TEXT), ("flops", *TEXT, "--phase", "train"))
"""What every valid spec has an answer to."""


# ------------------------------------------------------------------------------------- what is valid has its answers


def valid_is_answered(rng: Random) -> str | None:
    """What `validate` takes, every command that looks at the spec alone can answer."""
    spec = changed(rng, drawn(rng))
    for command, *flags in () if spec is None else ASKED:
        ran = ask({"s.yaml": spec}, command, "s.yaml", *flags)
        if ran.code != 0:
            return f"valid, and {command} {' '.join(flags)} exits {ran.code}: {ran.err}"
    return None


def the_twin_agrees(rng: Random) -> str | None:
    """What `validate` takes, the torch twin builds, with the same weights and cache."""
    spec = changed(rng, document("spec", rng.choice(small())))
    if spec is None or _elements(spec) > 1 << 44:  # torch counts in 64 bits
        return None
    ran = ask({"s.yaml": spec}, "crosscheck", "s.yaml", "--only", "params,kv")
    return None if ran.code == 0 else f"valid, and the cross-check exits {ran.code}: {ran.out[-600:]}{ran.err}"


def the_public_class_agrees(rng: Random) -> str | None:
    """A config that is imported, its public class builds, with the same weights. Only sizes change: the types of keys
    that size nothing are the class's to check."""
    config = document("config", rng.choice(names("config")))
    for node, key in rng.sample([place for place in places(config) if _is_size(place)], rng.choice((1, 1, 2))):
        node[key] = rng.choice((near(rng, node[key]), near(rng, node[key]), alike(rng, node[key])))
    if ask({"config.json": config}, "import", "config.json").code != 0:
        return None
    ran = ask({"config.json": config}, "crosscheck", "config.json", "--against", "transformers", "--only", "params")
    return None if ran.code == 0 else f"imported, and the public class exits {ran.code}: {ran.out[-600:]}{ran.err}"


def _elements(spec: dict[str, Any]) -> int:
    found = report({"s.yaml": spec}, "params", "s.yaml")
    return 0 if found is None else int(found["quantities"]["params.total"])


# --------------------------------------------------------------------------------------------- totals against sizes


def totals_grow(rng: Random) -> str | None:
    """Twice a size of the architecture: no fewer parameters, bytes of weights and cache, or FLOPs of the text.

    Each size of the backbone is a factor of some shape, or bounds how many pairs or experts a token meets; none divides
    one. So every term of a total grows or stays. Sizes of storage divide (a group has one scale), those of the tower
    too (a larger patch makes fewer tokens), and are left out of the sums that they divide.
    """
    spec = drawn(rng)
    sizes = [place for place in places(spec["backbone"]) if _is_size(place)]
    towers = [place for place in places({k: spec.get(k) for k in ("vision", "projector")}) if _is_size(place)]
    size = rng.choice(sizes + towers)
    text = size in sizes
    before = _totals(spec, text=text)
    node, key = size
    node[key] *= 2
    after = _totals(spec, text=text)
    if before is None or after is None:
        return None
    fallen = [f"{name} {before[name]} -> {after[name]}" for name in before if after[name] < before[name]]
    return f"{key} {node[key] // 2} -> {node[key]}: {', '.join(fallen)}" if fallen else None


def _is_size(place: tuple[Any, Any]) -> bool:
    node, key = place
    return isinstance(node[key], int) and not isinstance(node[key], bool) and node[key] > 0


WATCHED = ("params.total", "params.buffers", "params.mtp", "weights.bytes", "weights.elements")
OF_TEXT = ("params.active", "kv.total_bytes", "flops.forward")


def _totals(spec: dict[str, Any], *, text: bool) -> dict[str, Any] | None:
    """Totals of a spec, of the text's too; None where it is invalid."""
    found: dict[str, Any] = {}
    for command, *flags in ASKED[:4]:
        answer = report({"s.yaml": spec}, command, "s.yaml", *flags)
        if answer is None:
            return None
        found |= answer["quantities"]
    return {name: found[name] for name in WATCHED + (OF_TEXT if text else ())}


def layers_double(rng: Random) -> str | None:
    """The same layers once more: twice the parameters, cache and FLOPs of layers, and of nothing else.

    A layer's tensors have no shape that knows how many layers there are. Attention residuals mix the blocks before a
    layer, and prediction modules and what shares an indexer count from the end, so that such specs are left out.
    """
    spec = drawn(rng)
    backbone = spec["backbone"]
    if backbone.get("attn_res_block_size") or backbone.get("num_nextn_predict_layers"):
        return None
    other = deepcopy(spec)
    other["backbone"]["layers"] = backbone["layers"] * 2
    other["backbone"]["num_hidden_layers"] *= 2
    for command, column, flags in (
        ("params", "parameters", ()),
        ("flops", "forward", TEXT),
        ("kv", "sequence_bytes", ()),
    ):
        once, twice = (_of_layers(each, command, column, flags) for each in (spec, other))
        if once is None or twice is None:
            return None
        if twice[0] != 2 * once[0] or twice[1] != once[1]:
            return f"{command}: layers {once[0]} -> {twice[0]}, the rest {once[1]} -> {twice[1]}"
    return None


def _of_layers(spec: dict[str, Any], command: str, column: str, flags: tuple[str, ...]) -> tuple[int, int] | None:
    """The sum of the rows of layers, and of all others."""
    found = report({"s.yaml": spec}, command, "s.yaml", *flags)
    if found is None:
        return None
    leaves = [row for row in found["rows"] if row.get("leaf", True)]
    layers = [row for row in leaves if "layers.{i}" in str(row["template"]) and "visual" not in row["path"]]
    of_layers = sum(row[column] for row in layers if "vision" not in row["path"])
    return of_layers, sum(row[column] for row in leaves) - of_layers


# ------------------------------------------------------------------------------------------------ sums, units, batches


def rows_add_up(rng: Random) -> str | None:
    """A total is the sum of its rows."""
    spec = changed(rng, drawn(rng))
    if spec is None:
        return None
    sums = (
        ("params", "parameters", ("params.total", "params.mtp"), ()),
        ("flops", "forward", ("flops.forward",), TEXT),
    )
    for command, column, totals, flags in sums:
        found = report({"s.yaml": spec}, command, "s.yaml", *flags)
        if found is None:
            return None
        of_rows = sum(row[column] for row in found["rows"] if row.get("leaf", True) and row.get("part") != "mtp")
        total = found["quantities"][totals[0]]
        if of_rows != total:
            return f"{command}: the rows add up to {of_rows}, and {totals[0]} is {total}"
    return None


def units_change_no_json(rng: Random) -> str | None:
    """JSON holds bytes, whatever units people asked for."""
    spec, (command, *flags) = drawn(rng), rng.choice(ASKED)
    texts = {ask({"s.yaml": spec}, command, "s.yaml", *flags, "--format", "json", "--units", u).out for u in UNITS}
    return None if len(texts) == 1 else f"{command} answers otherwise in other units"


UNITS = ("gib", "gb", "bytes")


def a_batch_is_so_many_times_one(rng: Random) -> str | None:
    """Sequences share neither cache nor operations: b of them take b times what one takes."""
    spec, times = drawn(rng), rng.choice((2, 3, 7, 64))
    for command, name, flags in (("kv", "kv.total_bytes", ("--context", "96")), ("flops", "flops.forward", TEXT)):
        one, many = (report({"s.yaml": spec}, command, "s.yaml", *flags, "--batch", str(n)) for n in (1, times))
        if one and many and many["quantities"][name] != times * one["quantities"][name]:
            return f"{name} of {times}: {many['quantities'][name]}, of one: {one['quantities'][name]}"
    return None


def longer_is_no_less(rng: Random) -> str | None:
    """More tokens of a sequence: no less cache, no fewer operations. What is kept of the others is kept still."""
    spec, short = drawn(rng), rng.randrange(1, 400)
    long = short + rng.randrange(1, 400)
    for command, name, flag in (("kv", "kv.total_bytes", "--context"), ("flops", "flops.forward", "--seq")):
        less, more = (report({"s.yaml": spec}, command, "s.yaml", flag, str(n)) for n in (short, long))
        if less and more and more["quantities"][name] < less["quantities"][name]:
            return f"{name} at {short}: {less['quantities'][name]}, at {long}: {more['quantities'][name]}"
    return None


LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        valid_is_answered,
        the_twin_agrees,
        the_public_class_agrees,
        totals_grow,
        layers_double,
        rows_add_up,
        units_change_no_json,
        a_batch_is_so_many_times_one,
        longer_is_no_less,
    )
}
"""By name."""
