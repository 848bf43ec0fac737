"""Functions that hold one thing against another: two specs, our numbers and torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from archcalc.api.arguments import READERS, file, read, read_one
from archcalc.api.report import Report
from archcalc.api.specs import Given, Spec, SpecLike, load

if TYPE_CHECKING:
    from archcalc.documents.compare.sides import Side

SideLike: TypeAlias = "SpecLike | Report"
"""A spec in each of its forms, `"git:REV:path"`, a saved report, or one that a function returned."""


def diff(base: SideLike, head: SideLike, *, fail_on: str | Sequence[str] | None = None) -> Report:
    """What changed between two specs or reports: before, after, delta, percent, by quantity, path and field.

    `tables` are `quantities` and `fields`, `rows` the paths; `extra["changed"]` says whether more than a description
    changed.

    Args:
        base: what was: a spec, a saved JSON report, `"git:REV:path"` of either, "/dev/null" for nothing, or a Report.
        head: what is: as `base`.
        fail_on: limits such as "params.total:+1%" and "kv.bytes_per_token:±0": each becomes a finding, whose `verdict`
            is `exceeded` where a quantity moved further.

    Raises:
        InputError: a side that can't be read, sides without anything in common, or a limit that can't be held.
        SpecError: a file that is no valid spec.
    """
    from archcalc.documents.diff import diff_report

    asked = read({"fail_on": fail_on}, READERS)
    return Report(diff_report(_side(base, "base"), _side(head, "head"), limits=asked.get("fail_on", ())))


def _side(given: SideLike, name: str) -> Side | str:
    """A side as `diff_report` takes it. Raises InputError."""
    from archcalc.documents.compare.saved import of
    from archcalc.documents.compare.sides import Side

    if isinstance(given, Report):
        return Side(label=name, saved=of(given.document))
    if isinstance(given, Spec | Mapping):
        spec = load(given)
        lines = None if isinstance(spec.document, Given) else spec.document
        return Side(label=spec.name, document=lines, spec=spec.model)
    argument: str = read_one(name, file, given)
    return argument


def crosscheck(spec: SpecLike, *, against: str = "twin", only: str | Sequence[str] | None = None) -> Report:
    """Compare every number with a torch model on the meta device.

    A number that differs is a finding whose `difference` is not 0, not an error.

    Args:
        spec: a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        against: `twin` (archcalc's own torch model) or `transformers`.
        only: kinds of numbers: "params,flops", or a list of `params`, `flops`, `kv`, `weights`, `activations`,
            `schedule`; all that there are if left out.

    Raises:
        InputError: an argument that can't be used, an architecture without a public class, a library that is missing.
        SpecError: a file that is no valid spec.
    """
    from archcalc.proof import crosscheck as checked

    arguments = read({"against": against, "only": only}, READERS)
    loaded = load(spec)
    config = getattr(loaded.document, "config", None)
    return Report(checked(loaded.model, **arguments, config=None if config is None else config.data))
