"""Rows of tests/published/megatron-goldens.yaml, or of a table with a row a golden file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT

FILE = ROOT / "tests" / "published" / "megatron-goldens.yaml"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One golden file: what a run was told, and what its last rank printed.

    Attributes:
        world: GPUs by the test recipes; None where no recipe names the test.
        run: configuration by our names, defaults in.
        container: `dev` or `lts`: which of the two images ran.
        resting: allocated between steps, once the optimizer has its states [bytes].
        peak, first: the largest allocation of all steps, and of the first [bytes].
        taught: the mechanism that was found with this row; None where it is independent.
        seen: errors of `resting` and `peak` less `resting` when the row was asked first [%].
    """

    test: str
    family: str
    world: int | None
    run: Mapping[str, Any]
    container: str
    device: str
    commit: str
    date: str
    resting: int
    peak: int
    first: int | None
    taught: str | None = None
    seen: tuple[float, float] | None = None

    @property
    def id(self) -> str:
        """Name of the row, one a golden file."""
        return f"{self.test.split('/')[-1]} {self.container} {self.device}"

    def __getitem__(self, key: str) -> Any:
        """A setting of the run."""
        return self.run[key]


@cache
def published() -> dict[str, Any]:
    """The file."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


@cache
def rows() -> tuple[Golden, ...]:
    """All rows of the file."""
    found = []
    for test in published()["tests"]:
        run = published()["defaults"] | test["run"]
        for platform, commit, date, resting, peak, first, *seen in test["figures"]:
            container, device = platform.split()
            found.append(
                Golden(
                    test=test["test"],
                    family=test.get("family", "gpt"),
                    world=test["world"],
                    run=run,
                    container=container,
                    device=device,
                    commit=str(commit),
                    date=str(date),
                    resting=resting,
                    peak=peak,
                    first=first,
                    seen=(seen[0][0], seen[0][1]) if seen else None,
                    taught=test.get("taught", {}).get(platform),
                )
            )
    return tuple(found)


NAMED: dict[str, dict[str, Any]] = {
    "tunable_overlap": {"group": 5},
    "uneven_pipeline": {"first_layers": 2, "last_layers": 2},
    "account_for_embedding_loss": {"split_with_ends": True},
}
"""Settings of tests of these names that their model_config.yaml states."""


def table(path: Path) -> tuple[Golden, ...]:
    """Rows of a CSV file with one golden a line, its settings by our names: empty is the default or none, `yes` and
    `no` are what they say; `platform` is the golden file's (`dev_dgx_h100`)."""
    return tuple(_line(line) for line in csv.DictReader(path.read_text().splitlines()))


def _line(line: Mapping[str, str]) -> Golden:
    container, _, device = line["platform"].partition("_dgx_")
    run: dict[str, Any] = dict.fromkeys(published()["defaults"], None) | _blank()
    run |= {key: _value(text) for key, text in line.items() if text != ""}
    for key, value in published()["defaults"].items():
        if run[key] is None:
            run[key] = False if isinstance(value, bool) else value if key in ALWAYS else None
    for name, settings in NAMED.items():
        run |= settings if name in line["test"] else {}
    if run["cp"] > 1 or any(word in line["test"] for word in ("nondet", "reshard")):
        run["cublas"] = "default"
    return Golden(
        test=line["test"],
        family=line["family"].removesuffix("-moe"),
        world=int(line["world"]) if line["world"] else None,
        run=run,
        container=container,
        device=device,
        commit=line["golden_commit"],
        date=line["golden_date"],
        resting=int(line["steady_allocated_bytes"]),
        peak=int(line["peak_bytes"]),
        first=int(line["peak_iteration_1_bytes"] or 0) or None,
    )


ALWAYS = ("tp", "pp", "vpp", "ep", "cp", "mtp", "cublas", "attention_backend")
"""Settings that every run has."""


def _blank() -> dict[str, Any]:
    return dict.fromkeys(("kv_channels", "layout", "recompute", "fp8", "offload", "moe_freq"))


def _value(text: str) -> Any:
    if text in ("yes", "no"):
        return text == "yes"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
