"""Engine logs of tests/published/serve-logs.yaml, and what archcalc says of the same deployments.

`python -m tests.serving.published_logs` rewrites the tables of docs/validation.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import mean, median
from typing import Any

import yaml

from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.files.storage import release
from archcalc.hardware import Hardware, Links
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Bounds, End, load_engine
from archcalc.serving.memory import Device, Serving, serve
from archcalc.serving.overhead import Kind, Load, Served
from archcalc.units import parse_context
from tests.support import BUNDLED, ROOT

FOLDER = ROOT / "tests" / "published"
PAGE = ROOT / "docs" / "validation.md"
GIB = 2**30
FAST, SLOW = 450 * 10**9, 32 * 10**9
WITHIN_POOL, WITHIN_GIB, WITHIN_TOKENS = 0.10, 0.5, 0.10
"""A prediction is near where the pool is within the larger of the first two, or the tokens within the third."""
WITHIN_WEIGHTS, WITHIN_WEIGHTS_GIB = 0.01, 0.05
"""Weights agree within the larger of these."""
WITHIN_NON_TORCH_GIB = 0.05
"""How far outside the predicted range printed non-torch memory may be."""


@cache
def published() -> dict[str, Any]:
    """The file."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "serve-logs.yaml").read_text())
    return found


@cache
def _spec(name: str, storage: str | None) -> Spec:
    spec = load_spec(name if name in BUNDLED else str(FOLDER / "models" / f"{name}.yaml"))
    if storage is None:
        return spec
    return Spec.model_validate(spec.model_dump(by_alias=True) | {"storage": published()["storages"][storage]})


def _options(text: str) -> dict[str, str]:
    """Flags with their values; `yes` for those that take none."""
    words, found = shlex.split(text), {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            taken = i + 1 < len(words) and not words[i + 1].startswith("--")
            found[word.removeprefix("--")] = words[i + 1] if taken else "yes"
    return found


_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("context", "batched-tokens", "max-num-seqs", "block-size"), parse_context),
    **dict.fromkeys(("kv-dtype", "sampler"), str),
    **dict.fromkeys(("eager", "language-only"), bool),
    "utilization": float,
}
"""How the value of each flag of a load is read."""


@dataclass(frozen=True)
class Row:
    """A log and the prediction of it; everything in GiB is of one device."""

    id: str
    model: str
    engine: str
    profile: str
    hardware: dict[str, Any]
    flags: str
    log: dict[str, Any]
    source: str
    taught: str | None
    ran: str = ""
    storage: str | None = None
    assumed: str = ""
    residue: dict[str, Any] | None = None

    @cached_property
    def served(self) -> Serving:
        """What archcalc answers; nothing of it is the log's own but memory, flags and version."""
        flags, spec = _options(self.flags), _spec(self.model, self.storage)
        fast = FAST if self.hardware["link"] == "nvlink" else SLOW
        hardware = Hardware(
            kind="hardware",
            name=self.hardware["name"],
            memory_visible_bytes=round(self.hardware["memory_gib"] * GIB),
            links=Links(nvlink_bytes_per_s=fast, pcie_bytes_per_s=SLOW, network_bytes_per_s=SLOW),
        )
        tp, dp = int(flags.pop("tp", 1)), int(flags.pop("dp", 1))
        ep = flags.pop("ep", "1")
        where = Deployment(
            tp=tp,
            dp=dp,
            pp=int(flags.pop("pp", 1)),
            ep=tp * dp if ep == "all" else int(ep),
            vision="replicated" if flags.pop("vision", "") == "replicated" else "sharded",
        )
        load: dict[str, Any] = {name.replace("-", "_"): _READ[name](value) for name, value in flags.items()}
        whole = Served(model=spec, scheme=release(spec.storage), positions=spec.backbone.max_position_embeddings)
        return serve(whole, hardware, load_engine(self.profile), where, Load(**load))

    @property
    def device(self) -> Device:
        """The device that printed the log: the worst, or one of the pipeline stage that it names."""
        stage = self.log.get("stage")
        return self.served.worst if stage is None else self.served.devices[stage]

    # -- pool and tokens

    @property
    def pool(self) -> tuple[float, float, float]:
        """KV pool at the most, the middle and the least of what is assumed; negative where weights don't fit [GiB]."""
        return self.device.room("high") / GIB, self.device.room() / GIB, self.device.room("low") / GIB

    @property
    def left(self) -> float | None:
        """Predicted minus logged pool [GiB]."""
        return None if self.log.get("kv") is None else self.pool[1] - self.log["kv"]

    @property
    def tokens(self) -> int:
        """Predicted tokens of one engine, as logs print them."""
        return (self.served.max_tokens or 0) // self.served.where.dp

    @property
    def token_error(self) -> float | None:
        """Predicted tokens over logged ones, less 1; of the pool where the log prints no tokens."""
        if self.log.get("tokens"):
            return float(self.tokens / self.log["tokens"]) - 1
        kv = self.log.get("kv")
        return None if kv is None or kv <= 0 else self.pool[1] / kv - 1

    @property
    def near(self) -> bool | None:
        """Whether the pool is within 10 % or 0.5 GiB of the log's, or the tokens within 10 %; None without either."""
        if self.left is not None and abs(self.left) <= max(WITHIN_POOL * abs(self.log["kv"]), WITHIN_GIB):
            return True
        if self.log.get("kv") is None and self.log.get("tokens"):
            return abs(self.token_error or 0.0) <= WITHIN_TOKENS
        return None if self.left is None else False

    # -- verdict and weights

    @property
    def right(self) -> bool | None:
        """Whether the verdict is the log's; None where it gives none."""
        return None if self.log.get("fits") is None else self.served.fits == self.log["fits"]

    @property
    def weights_left(self) -> float | None:
        """Predicted weights, with what engines load beside the checkpoint, minus the log's [GiB]."""
        if self.log.get("weights") is None:
            return None
        kinds = ("absorbed", "rotary")
        beside = sum(t.bounds.middle for t in self.device.terms if t.kind in kinds)
        return float((self.device.weights_bytes + beside) / GIB - self.log["weights"])

    @property
    def weights_fit(self) -> bool:
        """Whether they are within the stated tolerance."""
        left = self.weights_left
        return left is None or abs(left) <= max(WITHIN_WEIGHTS * self.log["weights"], WITHIN_WEIGHTS_GIB)

    # -- terms

    @property
    def non_torch_inside(self) -> bool:
        """Whether the printed term is in the predicted range; True where none is printed."""
        printed, slack = self.log.get("non_torch"), WITHIN_NON_TORCH_GIB
        low, high = self.term("non_torch", "low"), self.term("non_torch", "high")
        return printed is None or low - slack <= printed <= high + slack

    def bounds(self, kind: Kind) -> Bounds | None:
        """A predicted term [bytes]."""
        return next((t.bounds for t in self.device.terms if t.kind == kind), None)

    def term(self, kind: Kind, end: End = "middle") -> float:
        """A predicted term [GiB]."""
        found = self.bounds(kind)
        return 0.0 if found is None else found.at(end) / GIB


def rows() -> list[Row]:
    """All rows of the file."""
    return [Row(**row) for row in published()["rows"]]


# -- the page ------------------------------------------------------------------------------------------------------

MARKS = ("<!-- serving: generated -->", "<!-- /serving -->")
TERMS: dict[str, tuple[str, Kind]] = {
    "activation": ("activation", "activation"),
    "non-torch": ("non_torch", "non_torch"),
    "CUDA graphs": ("graphs", "cuda_graphs"),
}
"""What logs print of the overhead: its name on the page, its key in a row, and ours."""


@dataclass(frozen=True)
class Summary:
    """Figures of some rows."""

    rows: Sequence[Row]

    @property
    def token_errors(self) -> list[float]:
        """Of the rows with tokens, or with a pool."""
        return [abs(error) for row in self.rows if (error := row.token_error) is not None]

    @property
    def left(self) -> list[float]:
        """Predicted minus logged pools [GiB]."""
        return [left for row in self.rows if (left := row.left) is not None]

    @property
    def near(self) -> list[bool]:
        """Of the rows that can be near."""
        return [near for row in self.rows if (near := row.near) is not None]

    @property
    def verdicts(self) -> list[bool]:
        """Of the rows whose log gives one, whether it is ours."""
        return [right for row in self.rows if (right := row.right) is not None]

    @property
    def refusals(self) -> list[bool]:
        """Of the rows that did not fit, whether we say so."""
        return [not row.served.fits for row in self.rows if row.log.get("fits") is False]

    def errors(self, name: str) -> list[tuple[float, float]]:
        """Printed and predicted values of a term [GiB]."""
        key, kind = TERMS[name]
        return [(row.log[key], row.term(kind)) for row in self.rows if row.log.get(key) is not None]


def relative_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean absolute error of predictions, as a share of what was printed."""
    return mean(abs(ours / theirs - 1) for theirs, ours in pairs)


def mae(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean absolute error of predictions [GiB]."""
    return mean(abs(ours - theirs) for theirs, ours in pairs)


def generated() -> str:
    """The generated part of the page."""
    every = rows()
    parts = (_summary(every), _pools(every), _taught(every), _residues(every), _mapes(every), _terms(every))
    return "\n\n".join((MARKS[0], *parts, MARKS[1]))


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], right: int) -> str:
    """A table of Markdown whose columns from the `right`-th on are numbers."""
    rule = ["---" if i < right else "---:" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def _share(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def _summary(every: Sequence[Row]) -> str:
    groups = {
        "all": every,
        "taught us something": [row for row in every if row.taught],
        "independent": [row for row in every if not row.taught],
    }
    lines = []
    for name, some in groups.items():
        s = Summary(some)
        lines.append(
            (
                name,
                str(len(some)),
                _share(s.verdicts),
                _share(s.refusals),
                f"{100 * median(s.token_errors):.1f} %",
                _share(s.near),
                f"{median(map(abs, s.left)):.2f}",
                _share([abs(left) <= WITHIN_GIB for left in s.left]),
            )
        )
    heads = ("rows", "count", "verdict right", "refusals seen", "median token error", "near", "median pool error, GiB")
    return _table((*heads, "pool within 0.5 GiB"), lines, 1)


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _lessons(every: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.taught for row in every if row.taught))


def _pools(every: Sequence[Row]) -> str:
    lessons, lines = _lessons(every), []
    for row in every:
        where, error = row.served.where, row.token_error
        says = {None: "", True: "fits", False: "does not fit"}[row.log.get("fits")]
        lines.append(
            (
                row.id,
                row.ran or row.model,
                row.engine,
                f"{where.devices} x {row.hardware['name']}",
                str(lessons.index(row.taught) + 1) if row.taught else "",
                says,
                row.served.word + (" **wrong**" if row.right is False else ""),
                _two(row.log.get("kv")),
                " .. ".join(f"{end:.2f}" for end in row.pool),
                "" if error is None else f"{100 * error:+.1f} %",
            )
        )
    heads = ("row", "model", "engine", "devices", "taught", "log", "ours", "KV pool, GiB", "predicted", "tokens")
    return _table(heads, lines, 7)


def _taught(every: Sequence[Row]) -> str:
    lines = [f"{i}. {lesson}" for i, lesson in enumerate(_lessons(every), 1)]
    return "\n".join(("What the rows taught, by the numbers above:", "", *lines))


def _residues(every: Sequence[Row]) -> str:
    lines = []
    for row in every:
        stated = dict(row.residue or {})
        why = stated.pop("why", "")
        units = {"tokens": "{:+.1f} %", "verdict": "{}"}
        found = [
            f"{what.replace('_', '-')} {units.get(what, '{:+.2f} GiB').format(left)}" for what, left in stated.items()
        ]
        if found:
            lines.append((row.id, ", ".join(found), why))
    return "\n".join(("Outside the tolerances, predicted minus logged:", "", _table(("row", "off", "why"), lines, 3)))


def _mapes(every: Sequence[Row]) -> str:
    lines = []
    links = {"none": "one GPU", "pcie": "PCIe", "nvlink": "NVLink"}
    groups = {"all": every} | {
        f"{profile}, {links[link]}": [row for row in every if (row.profile, row.hardware["link"]) == (profile, link)]
        for profile, link in dict.fromkeys((row.profile, row.hardware["link"]) for row in every)
    }
    for name, some in sorted(groups.items(), key=lambda item: (item[0] != "all", item[0])):
        cells = []
        for term in TERMS:
            pairs = Summary(some).errors(term)
            cells += (
                [str(len(pairs)), f"{100 * relative_error(pairs):.0f} %", f"{mae(pairs):.2f}"]
                if pairs
                else ["", "", ""]
            )
        if any(cells):
            lines.append((name, *cells))
    heads = ("rows", *(head for term in TERMS for head in (f"{term}: logs", "mean error", "GiB")))
    return "\n".join(
        (
            "Terms at their middle against what logs print of them, by mean absolute error (relative, and in GiB):",
            "",
            _table(heads, lines, 1),
        )
    )


def _terms(every: Sequence[Row]) -> str:
    lines = []
    for row in every:
        cells = []
        for key, kind in TERMS.values():
            printed = row.log.get(key)
            ours = f"{row.term(kind, 'low'):.2f} .. {row.term(kind, 'high'):.2f}"
            cells += ["", ""] if printed is None else [f"{printed:.2f}", ours]
        if any(cells):
            lines.append((row.id, *cells))
    heads = ("row", *(head for term in TERMS for head in (term, "predicted")))
    return "\n".join(("Each of them, GiB a GPU:", "", _table(heads, lines, 1)))


def page() -> str:
    """The page with its generated part made anew."""
    before, rest = PAGE.read_text().split(MARKS[0])
    return before + generated() + rest.split(MARKS[1])[1]


if __name__ == "__main__":
    PAGE.write_text(page())
