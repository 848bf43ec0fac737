"""Functions that hold one thing against another: two specs, our numbers and torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from archcalc.api.arguments import READERS, File, Image, Length, Overrides, file, read, read_one
from archcalc.api.report import Report
from archcalc.api.specs import Given, Spec, SpecLike, load

if TYPE_CHECKING:
    from archcalc.documents.compare.sides import Side

SideLike: TypeAlias = "SpecLike | Report"
"""A spec in each of its forms, `"git:REV:path"`, a saved report, or one that a function returned."""


def diff(
    base: SideLike,
    head: SideLike,
    *,
    fail_on: str | Sequence[str] | None = None,
    gpu: File | None = None,
    gpus: int | Literal["auto"] | None = None,
    plan: File | None = None,
    set: Overrides | None = None,
    seq: Length | None = None,
    image: Image | Sequence[Image] | None = None,
    context: Length | None = None,
) -> Report:
    """What changed between two specs or reports: before, after, delta, percent, by quantity, path and field.

    `tables` are `quantities` and `fields`, `rows` the paths; `extra["changed"]` says whether more than a description
    changed.

    Args:
        base: what was: a spec, a saved JSON report, `"git:REV:path"` of either, "/dev/null" for nothing, or a Report.
        head: what is: as `base`.
        fail_on: limits such as "params.total:+1%" and "kv.bytes_per_token:±0": each becomes a finding, whose `verdict`
            is `exceeded` where a quantity moved further.
        gpu: compare serving on it too: a bundled GPU or a hardware file.
        gpus: GPUs, or `"auto"`: the fewest that fit.
        plan: compare training under it too: a bundled plan or a plan file.
        set: fields of the plan to override: {"parallel.pp": 8}, or ["parallel.pp=8"].
        seq: text tokens of the compared prefill [tokens], or text such as "8k"; 4,096 if left out.
        image: images of the compared prefill [pixels]: (1024, 768), "1024x768", or several.
        context: tokens of the compared cache [tokens], or text such as "256k"; 131,072 if left out, and served the
            model's limit.

    Raises:
        InputError: a side that can't be read, sides without anything in common, or a limit that can't be held.
        SpecError: a file that is no valid spec.
    """
    asked = {name: value for name, value in locals().items() if name not in ("base", "head")}
    from archcalc.documents.diff import diff_report

    flags = read(asked, READERS)
    limits = flags.pop("fail_on", ())
    return Report(diff_report(_side(base, "base"), _side(head, "head"), limits=limits, **flags))


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


def check(path: File, *, base: str | None = None, allow_new: bool = False) -> Report:
    """Hold specs against a file of budgets: what quantities may come to, and by how much they may grow.

    `findings` are the budgets, each with a `verdict`: a budget that is exceeded is an answer, not an error.

    Args:
        path: a file with the key `budgets`, or `"git:REV:path"` of one.
        base: the git revision that growth (`max_increase`) is measured from.
        allow_new: growth of a spec that is new since `base` is `new`; else it is `not held`.

    Raises:
        InputError: a file or spec that can't be read, or growth without `base`.
        SpecError: a file that is no valid file of budgets, or a spec that is not valid.
    """
    from archcalc.documents.budgets import check

    flags = read({"allow_new": allow_new}, READERS)
    return Report(check(read_one("path", file, path), base=base, **flags))


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
