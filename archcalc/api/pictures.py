"""The function that draws."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from archcalc.api.arguments import SWEPT, File, Length, Memory, Overrides, one_of, read, read_one
from archcalc.api.report import Report
from archcalc.api.specs import SpecLike, load
from archcalc.errors import InputError

if TYPE_CHECKING:
    from archcalc.documents.sweep.cases import Model
    from archcalc.documents.sweep.figure import Figure


class Plot(Report):
    """A picture, and the report of the numbers that it draws.

    `save("x.svg")` and `save("x.png")` write the picture, other endings the numbers; `str(plot)` is the picture as
    text.
    """

    __slots__ = ("figure",)

    def __init__(self, figure: Figure) -> None:
        super().__init__(figure.report)
        self.figure = figure

    def __str__(self) -> str:
        from archcalc.render.textplot import render

        return render(self.figure)

    def save(self, path: str | os.PathLike[str], *, units: str = "gib", assumptions: bool = False) -> None:
        """Write the picture (.svg, .png), or the numbers (.md, .json, .csv, .txt).

        Args:
            path: where; its ending names the format. A file is written whole, or not at all.
            units: bytes as `gib`, `gb` or `bytes`.
            assumptions: all of them in Markdown and text, instead of a count.

        Raises:
            InputError: another ending, unknown units, a file that can't be written, or a picture without matplotlib.
        """
        from archcalc.render import PICTURES
        from archcalc.render.save import drawn_as, write
        from archcalc.units import check_units

        form = PICTURES.get(Path(path).suffix.lower())
        if form is None:
            super().save(path, units=units, assumptions=assumptions)
        else:
            check_units(units)
            write(Path(path), drawn_as(self.figure, form, units))

    def _repr_svg_(self) -> str | None:
        """The picture for a notebook; None without matplotlib."""
        from importlib.util import find_spec

        from archcalc.render.save import drawn_as

        return None if find_spec("matplotlib") is None else drawn_as(self.figure, "svg", "gib").decode()

    def _repr_html_(self) -> str:
        from archcalc.render.html import picture, preformatted

        svg = self._repr_svg_()
        shown = preformatted(str(self)) if svg is None else picture(b64encode(svg.encode()).decode(), self.title)
        return shown + super()._repr_html_()


def plot(
    kind: Literal["memory", "kv", "flops", "train"],
    *specs: SpecLike,
    context: str | tuple[Length, Length] | None = None,
    batch: int | str | Sequence[int] | None = None,
    gpu: File | Sequence[File] | None = None,
    as_: str = "released",
    gpus: int | Literal["auto"] | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int | Literal["all"] | None = None,
    dcp: int | None = None,
    kv_dtype: str | Sequence[str] | None = None,
    block_size: Length | None = None,
    vision: Literal["replicated", "sharded"] | None = None,
    engine: File = "vllm",
    utilization: float | None = None,
    batched_tokens: Length | None = None,
    max_num_seqs: Length | None = None,
    sampler: Literal["torch", "flashinfer"] | None = None,
    eager: bool = False,
    language_only: bool = False,
    draft: File | None = None,
    mtp: bool = False,
    lora_rank: int = 0,
    offload_experts: int | Literal["host"] | None = None,
    overhead: Memory | None = None,
    plan: File | Sequence[File] | None = None,
    set: Overrides | None = None,
) -> Plot:
    """Curves of memory, KV cache, FLOPs and training memory, and the numbers behind them.

    Args:
        kind: `memory` (serving memory of each device against context; with `plan`, training memory against sequence
            length), `kv` (cache against context), `flops` (of a prefill against its length) or `train` (training memory
            of every pipeline rank).
        specs: one or several: each a path, a bundled name, a config.json, a mapping, or what `archcalc.load` returned.
        context: lengths [tokens]: "4k..256k" or (4096, 262144); to the model's limit if left out.
        batch: sequences: 1, [1, 8] or "1,8".
        gpu: bundled GPUs or hardware files, whose memory is the limit. For `memory`.
        kv_dtype: cache dtypes: "bf16", ["bf16", "fp8"] or "bf16,fp8". For `memory` and `kv`.
        tp, pp, dp, dcp, block_size: as of `archcalc.kv`. For `memory` and `kv`.
        as_, gpus, ep, vision, engine, utilization, batched_tokens, max_num_seqs, sampler, eager, language_only, draft,
            mtp, lora_rank, offload_experts, overhead: as of `archcalc.serve`. For `memory`.
        plan: plan files or bundled plans. For `train`, which needs one, and `memory`.
        set: fields of the plans to override: {"parallel.pp": 8}, or ["parallel.pp=8"].

    Raises:
        InputError: a file that can't be read, an argument that can't be used or that the kind does not look at, or more
            than one picture can show.
        SpecError: a file that is no valid spec or plan.
    """
    from archcalc.documents.sweep.ask import KINDS

    given = {name: value for name, value in locals().items() if name in _DEFAULTS and not _is_default(name, value)}
    read_one("kind", one_of(*KINDS), kind)
    if not specs:
        raise InputError("no spec is named", source="specs", hint=f'write archcalc.plot("{kind}", "k25")')
    _check_looked_at(kind, given, signature(KINDS[kind]).parameters)
    return Plot(KINDS[kind](_models(specs), **read(given, SWEPT)))


_DEFAULTS = {name: p.default for name, p in signature(plot).parameters.items() if p.default is not Parameter.empty}


def _is_default(name: str, value: object) -> bool:
    default = _DEFAULTS[name]
    return value is default or (type(value) is type(default) and value == default)


def _check_looked_at(kind: str, given: Mapping[str, Any], known: Mapping[str, Parameter]) -> None:
    """Raises InputError for arguments that a kind of plot has no use for, and for the plan that it lacks."""
    from archcalc.documents.sweep.ask import check_trained

    if kind == "memory":
        trained = bool(given.get("plan"))
        extra = [name for name in given if name not in ("context", "plan", "set")] if trained else []
        check_trained(extra or [name for name in given if name == "set" and not trained], planned=trained)
        return
    for name in given:
        if name not in known:
            raise InputError(f"plot {kind} does not look at it", source=name, hint=f"leave out {name}")
    if "plan" in known and not given.get("plan"):
        raise InputError("no plan is named", source="plan", hint="add plan='k2-pretrain', or a plan file")


def _models(specs: Iterable[SpecLike]) -> list[Model]:
    """The specs by what they were asked for as, each once."""
    from archcalc.documents.sweep.cases import named

    found: dict[str, Any] = {}
    for given in specs:
        called = os.fspath(given) if isinstance(given, str | os.PathLike) else None
        if called in found:
            continue
        loaded = load(given)
        if any(loaded.model is model for model in found.values()):
            continue
        word = called or loaded.name
        while word in found:
            word += "'"
        found[word] = loaded.model
    return named(found)
