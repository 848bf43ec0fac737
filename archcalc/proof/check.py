"""The check itself: two sides of every kind, joined path by path, as a report."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from archcalc.documents.document import Column, Report, Table
from archcalc.errors import InputError, did_you_mean, in_its_case, show_value
from archcalc.files.model import Spec
from archcalc.proof.ours import OURS, SEQ
from archcalc.proof.sides import Finding, Sides, joined

KINDS = tuple(OURS)
"""What can be compared with the twin; transformers answers the first three."""

Progress = Callable[[str], None]

OPPONENTS = {"twin": "the torch twin", "transformers": "transformers"}

COLUMNS = (
    Column("kind", "kind"),
    Column("paths", "paths", "int"),
    Column("parts", "parts", "int"),
    Column("ours", "archcalc", "int"),
    Column("theirs", "torch", "int"),
    Column("result", "result"),
)
DIFFERENT = (
    Column("kind", "kind"),
    Column("path", "path"),
    Column("setting", "setting"),
    Column("count", "x", "int"),
    Column("ours", "archcalc", "int"),
    Column("theirs", "torch", "int"),
    Column("difference", "difference", "int"),
)
COUNTED = (
    f"FLOPs at {SEQ} tokens with full scores, forward and backward, and one decode step; FLOPs of torch by"
    " its own counter on the meta device; activations by saved-tensor hooks, in bytes.",
)

COUNTED_PUBLIC = (
    f"FLOPs of one forward pass of text, {SEQ} tokens at most, with full scores, by torch's own counter on the meta"
    " device; caches in bytes, bf16, as transformers' own cache object holds them.",
)


def crosscheck(
    spec: Spec,
    *,
    against: str = "twin",
    only: Iterable[str] = (),
    progress: Progress = lambda _: None,
    config: Mapping[str, Any] | None = None,
) -> Report:
    """Compare every number that torch can give.

    Args:
        against: `twin` or `transformers`.
        only: kinds to compare; all that there are by default.
        progress: told what is being built.
        config: the config.json that the spec was read from; transformers builds its class from that and not from what
            the spec holds.

    Raises:
        InputError: unknown kind or opponent, a missing extra, an architecture without a public class.
        TwinError: torch can't vouch for its own count.
    """
    against = in_its_case(against, OPPONENTS)
    kinds = _kinds(against, tuple(in_its_case(name, KINDS) for name in only))
    need_torch(against)
    progress(f"loading {'torch' if against == 'twin' else 'transformers'}")
    try:
        with _no_collection():
            ours, theirs, notes = _sides(spec, against, kinds, progress, config)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise InputError(f"torch can't hold a tensor of {spec.title}: its bytes are more than 2^63") from None
    return _report(spec, against, kinds, joined(ours, theirs), notes)


def need_torch(against: str = "twin") -> None:
    """Raises InputError that says what to install where the extra is missing."""
    needed, extra = ("torch", "torch") if against == "twin" else ("transformers", "hf")
    if find_spec(needed) is None or find_spec("torch") is None:
        raise InputError(f"the cross-check needs {needed}", hint=f"pip install 'archcalc[{extra}]'")


def _sides(
    spec: Spec, against: str, kinds: tuple[str, ...], progress: Progress, config: Mapping[str, Any] | None
) -> tuple[Sides, Sides, list[str]]:
    if against == "transformers":
        from archcalc.proof.public import opinions

        return opinions(spec, config, kinds, progress)
    from archcalc.proof.twin import their_sides

    return our_sides(spec, kinds), their_sides(spec.model_dump(), kinds, progress), []


def our_sides(spec: Spec, kinds: Iterable[str] = KINDS) -> Sides:
    """Every kind that is asked for, from archcalc's own calculators."""
    sides: Sides = {}
    for kind in kinds:
        sides |= OURS[kind](spec)
    return sides


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cycle collector: torch's import and a hundred thousand small objects make it run for seconds."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _kinds(against: str, only: tuple[str, ...]) -> tuple[str, ...]:
    if against not in OPPONENTS:
        hint = did_you_mean(against, OPPONENTS) or "use twin or transformers"
        raise InputError(f"nothing to compare with is named {show_value(against)}", value=against, hint=hint)
    known = KINDS if against == "twin" else KINDS[:3]
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known) or f"one of {', '.join(known)}"
            raise InputError(f"{OPPONENTS[against]} has no {show_value(name)} to compare", value=name, hint=hint)
    return tuple(k for k in known if k in only) if only else known


def summary(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """A row for each kind: how many paths and parts, both sums, and whether anything differs."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding["kind"], []).append(finding)
    return [
        {
            "path": kind,
            "kind": kind,
            "paths": len(mine),
            "parts": sum(f["count"] for f in mine),
            "ours": sum(f["count"] * f["ours"] for f in mine),
            "theirs": sum(f["count"] * f["theirs"] for f in mine),
            "result": "differs" if any(f["difference"] for f in mine) else "equal",
        }
        for kind, mine in by_kind.items()
    ]


def _report(spec: Spec, against: str, kinds: tuple[str, ...], findings: list[Finding], notes: list[str]) -> Report:
    different = [f for f in findings if f["difference"]]
    verdict = f"{len(different)} of {len(findings)} differ" if different else f"all {len(findings)} equal"
    return Report(
        command="crosscheck",
        title=f"{spec.title}: archcalc against {OPPONENTS[against]}, {verdict}",
        spec=spec,
        inputs={"spec": spec.name, "against": against, "only": list(kinds)},
        quantities={},
        rows=Table("rows", "compared, integer for integer", COLUMNS, summary(findings)),
        tables=[Table("differences", "what differs", DIFFERENT, different)] if different else [],
        findings=findings,
        conventions=COUNTED if against == "twin" else COUNTED_PUBLIC,
        notes=notes,
    )
