"""The report that a function returns: exact numbers, rows, files, a notebook's page, data frames."""

from __future__ import annotations

import json
import pickle
import sys
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import archcalc
from archcalc.documents.document import Column, Table
from archcalc.documents.document import Report as Document
from tests.support import TINY, run, tiny, written

ROWS: list[dict[str, Any]] = [
    {"path": "a", "n": 2**60 + 1, "share": 0.5, "fits": True, "runs": [[1, 2]]},
    {"path": "b", "n": None, "share": None, "fits": False, "more": "x"},
]


def report(**changes: Any) -> archcalc.Report:
    """A report of all parts."""
    columns = (Column("path", "path"), Column("n", "n", "int"))
    parts: dict[str, Any] = {
        "command": "kv",
        "title": "Something: 3",
        "inputs": {"spec": "x"},
        "quantities": {"kv.total_bytes": 2**70, "kv.bytes_per_token": Fraction(1, 3), "serve.fits": True},
        "rows": Table("rows", "parts", columns, ROWS),
        "tables": [Table("others", "others", columns, ROWS[:1])],
        "findings": [{"verdict": "kept"}],
        "assumptions": ["a"],
        "conventions": ["c"],
        "notes": ["n"],
        "extra": {"verdict": "fits"},
    }
    return archcalc.Report(Document(**(parts | changes)))


def test_a_report_has_the_parts_of_its_document() -> None:
    found = report()
    assert (found.title, found.command, found.inputs) == ("Something: 3", "kv", {"spec": "x"})
    assert found.quantities == {"kv.total_bytes": 2**70, "kv.bytes_per_token": Fraction(1, 3), "serve.fits": True}
    assert found.rows == ROWS
    assert found.tables == {"others": ROWS[:1]}
    assert (found.findings, found.extra) == ([{"verdict": "kept"}], {"verdict": "fits"})
    assert (found.assumptions, found.conventions, found.notes) == (["a"], ["c"], ["n"])
    assert repr(found) == "<archcalc.Report kv: Something: 3>"


def test_what_is_done_to_the_parts_does_not_change_the_report() -> None:
    found = report()
    text = found.to_json()
    parts: list[Any] = [found.quantities, found.inputs, found.rows[0], found.tables, found.findings[0], found.extra]
    for part in (*parts, found.rows, found.notes, found.findings, found.tables["others"]):
        part.clear()
    assert found.to_json() == text


def test_a_quantity_is_had_by_its_name_with_all_digits() -> None:
    found = report()
    assert found["kv.total_bytes"] == 1180591620717411303424
    assert found["kv.bytes_per_token"] == Fraction(1, 3)
    assert found["serve.fits"] is True
    assert list(found) == list(found.quantities)
    assert "serve.fits" in found
    assert "serve.fit" not in found


@pytest.mark.parametrize("error", [archcalc.InputError, KeyError])
def test_a_quantity_that_is_not_there_has_a_hint(error: type[Exception]) -> None:
    with pytest.raises(error, match=r'no quantity "kv.totl_bytes"') as caught:
        report()["kv.totl_bytes"]
    assert "did you mean kv.total_bytes?" in caught.value.render()  # type: ignore[attr-defined]


def test_as_text_it_is_what_the_command_prints() -> None:
    assert str(archcalc.kv("k25")) == run("kv", "k25").out
    assert archcalc.kv("k25").to_json() == run("kv", "k25", "--format", "json").out


@pytest.mark.parametrize(("ending", "form"), [("md", "markdown"), ("json", "json"), ("csv", "csv"), ("TXT", "table")])
def test_a_file_is_what_the_command_writes(tmp_path: Path, ending: str, form: str) -> None:
    path = tmp_path / f"x.{ending}"
    archcalc.weights("k25").save(path, units="gb")
    assert path.read_text() == run("weights", "k25", "--format", form, "--units", "gb").out
    archcalc.weights("k25").save(str(path))
    assert path.read_text() == run("weights", "k25", "--format", form).out


def test_assumptions_are_counted_unless_all_are_asked_for(tmp_path: Path) -> None:
    found = archcalc.train("k25", plan="k2-pretrain")
    command = ("train", "k25", "--plan", "k2-pretrain", "--format", "markdown")
    found.save(tmp_path / "few.md")
    found.save(tmp_path / "all.md", assumptions=True)
    assert (tmp_path / "few.md").read_text() == run(*command).out
    assert (tmp_path / "all.md").read_text() == run(*command, "--assumptions").out
    assert (tmp_path / "few.md").read_text() != (tmp_path / "all.md").read_text()


def test_a_file_that_can_not_be_written_is_an_error_and_no_file(tmp_path: Path) -> None:
    found = report()
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "x.svg", {}, "can't tell the format of x.svg"),
        (tmp_path / "x", {}, "can't tell the format of x"),
        (tmp_path / "none" / "x.md", {}, "No such file"),
        (tmp_path / "x.md", {"units": "kb"}, "unknown units"),
        (tmp_path / "x.json", {"units": "kb"}, "unknown units"),
    ]
    for path, options, says in cases:
        with pytest.raises(archcalc.InputError, match=says):
            found.save(path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_report_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(report())).to_json() == report().to_json()


# -- notebooks --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The texts of a page, and whether its tags close each other."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data)


def test_a_notebook_shows_the_answer_first_then_quantities_then_tables() -> None:
    page = Page(archcalc.serve("k25", gpu="h200", gpus=8)._repr_html_())
    assert page.texts[0].startswith("Kimi K2.5 fits on 8 x NVIDIA H200 SXM 141GB: 1 x 262,144 tokens in bf16")
    assert page.texts[1:3] == ["fits", "yes"]
    assert page.tags.count("table") == 4  # quantities, terms, overhead, levers
    assert "memory of one GPU" in page.texts


@pytest.mark.parametrize("command", ["card", "params", "claims", "flops", "kv", "weights"])
def test_every_report_is_a_page_that_closes(command: str) -> None:
    found = getattr(archcalc, command)("k25")
    assert Page(found._repr_html_()).texts[0] == found.title


def test_a_long_table_is_folded_and_a_short_one_is_not() -> None:
    columns = (Column("path", "path"),)
    for rows, folds in ((24, 0), (25, 1)):
        table = Table("rows", "parts", columns, [{"path": f"p{n}"} for n in range(rows)])
        page = Page(report(rows=table, tables=(), assumptions=(), conventions=())._repr_html_())
        assert page.tags.count("details") == folds
        assert "p23" in page.texts


def test_what_a_page_leaves_out_is_counted() -> None:
    table = Table("rows", "parts", (Column("path", "path"),), [{"path": f"p{n}"} for n in range(1002)])
    texts = Page(report(rows=table)._repr_html_()).texts
    assert "p999" in texts
    assert "p1000" not in texts
    assert any(text.startswith("[2 more") for text in texts)


def test_nothing_of_a_file_becomes_markup() -> None:
    spec = tiny() | {"title": "<script>alert('x')</script>&\x1b[31m"}
    for found in (archcalc.params(spec), archcalc.diff(spec, TINY), archcalc.plot("kv", spec)):
        html = found._repr_html_()
        page = Page(html)
        assert "script" not in page.tags
        assert "\x1b" not in html
    assert Page(archcalc.params(spec)._repr_html_()).texts[0].startswith("<script>alert('x')</script>&\\x1b[31m")


def test_the_page_takes_the_colours_of_its_surroundings() -> None:
    html = archcalc.params("k25")._repr_html_()
    assert "color:#" not in html
    assert "background" not in html


def test_a_diff_on_a_page_has_units() -> None:
    texts = Page(archcalc.diff("k25", "kimi-k2")._repr_html_()).texts
    assert any(text.endswith(" GiB") for text in texts)


# -- plots ------------------------------------------------------------------------------------------------------------


def test_a_plot_is_a_picture_and_its_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = archcalc.plot("kv", "k25", context="4k..16k")
    assert isinstance(plot, archcalc.Report)
    assert repr(plot).startswith("<archcalc.Plot plot: Kimi K2.5")
    for name in ("x.svg", "x.PNG", "x.csv", "x.json"):
        plot.save(tmp_path / name)
    run("plot", "kv", "k25", "--context", "4k..16k", "-o", str(tmp_path / "y.svg"), "-o", str(tmp_path / "y.csv"))
    assert (tmp_path / "x.svg").read_text() == (tmp_path / "y.svg").read_text() == plot._repr_svg_()
    assert (tmp_path / "x.csv").read_text() == (tmp_path / "y.csv").read_text()
    assert (tmp_path / "x.PNG").read_bytes().startswith(b"\x89PNG")
    assert [row["context"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]] == [4096, 8192, 16384]
    page = Page(plot._repr_html_())
    assert page.tags[0] == "img"
    assert "table" in page.tags


def test_without_matplotlib_a_plot_is_shown_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "archcalc.render.plot", None)
    plot = archcalc.plot("kv", written(tmp_path, TINY))
    assert plot._repr_svg_() is None
    page = Page(plot._repr_html_())
    assert page.tags[0] == "pre"
    assert page.texts[0] == str(plot).rstrip()


def test_a_picture_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    from unittest.mock import patch

    hidden = {"matplotlib": None, "matplotlib.backends.backend_agg": None}
    with patch.dict(sys.modules, hidden):
        sys.modules.pop("archcalc.render.plot", None)
        with pytest.raises(archcalc.InputError, match=r"pip install 'archcalc\[plot\]'"):
            archcalc.plot("kv", TINY).save(tmp_path / "x.svg")
    assert list(tmp_path.iterdir()) == []


# -- data frames ------------------------------------------------------------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A library that only remembers what it was given: a column's name, type and values."""
    module: Any = ModuleType(name)
    module.Object = "Object"
    if name == "pandas":
        module.Series = lambda values, dtype: (dtype, values)
        module.DataFrame = lambda columns: ("pandas", columns)
    else:
        module.Series = lambda key, values, dtype=None: (key, dtype, values)
        module.DataFrame = lambda series: ("polars", {key: (dtype, values) for key, dtype, values in series})
    monkeypatch.setitem(sys.modules, name, module)


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Libraries whose import fails as that of a missing one does."""
    from importlib import import_module as real

    def imported(name: str) -> ModuleType:
        if name in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr("archcalc.api.frames.import_module", imported)


def test_pandas_is_preferred_and_no_number_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "pandas")
    stand_in(monkeypatch, "polars")
    library, columns = report().to_dataframe()
    assert library == "pandas"
    assert columns == {
        "path": ("string", ["a", "b"]),
        "n": ("Int64", [2**60 + 1, None]),
        "share": ("Float64", [0.5, None]),
        "fits": ("boolean", [True, False]),
        "runs": (object, [[[1, 2]], None]),
        "more": ("string", [None, "x"]),
    }
    # 2^70 does not go into 64 bits, and a bool among numbers is no number
    assert report().to_dataframe("quantities")[1]["value"] == (object, [2**70, Fraction(1, 3), True])
    assert report().to_dataframe("others")[1]["n"] == ("Int64", [2**60 + 1])
    assert report().to_dataframe("findings")[1] == {"verdict": ("string", ["kept"])}
    big = report(rows=Table("rows", "", (), [{"n": 2**63}, {"n": 2**63 - 1}]))
    assert big.to_dataframe()[1]["n"][0] is object


def test_polars_is_taken_where_pandas_is_missing_or_polars_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "pandas")
    stand_in(monkeypatch, "polars")
    asked = report().to_dataframe(library="polars")
    absent(monkeypatch, "pandas")
    library, columns = report().to_dataframe()
    assert (library, columns) == asked
    assert library == "polars"
    assert columns["n"] == (None, [2**60 + 1, None])
    assert columns["runs"] == ("Object", [[[1, 2]], None])
    assert report().to_dataframe("quantities")[1]["value"][0] == "Object"


@pytest.mark.parametrize("error", [archcalc.InputError, ImportError])
def test_without_either_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    absent(monkeypatch, "pandas", "polars")
    with pytest.raises(error, match="a data frame needs pandas or polars") as caught:
        report().to_dataframe()
    assert "pip install pandas" in caught.value.render()  # type: ignore[attr-defined]
    with pytest.raises(error, match="needs polars"):
        report().to_dataframe(library="polars")


def test_a_library_that_is_broken_is_no_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr("archcalc.api.frames.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        report().to_dataframe()


@pytest.mark.parametrize(("table", "library", "says"), [("row", None, "no table"), ("rows", "dask", '"dask"')])
def test_no_such_table_or_library(table: str, library: Any, says: str) -> None:
    with pytest.raises(archcalc.InputError, match=says):
        report().to_dataframe(table, library=library)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_real_libraries_keep_every_number(library: Any) -> None:
    pytest.importorskip(library)
    for found in (archcalc.params("k25"), archcalc.claims("k25"), archcalc.train("k25", plan="k2-pretrain")):
        for table in ("rows", "quantities", "findings", *found.tables):
            frame = found.to_dataframe(table, library=library)
            rows = [*found.rows] if table == "rows" else found._table(table)
            for key in frame.columns:
                pairs = zip(frame[key].to_list(), (row.get(key) for row in rows), strict=True)
                assert all(theirs == ours for theirs, ours in pairs if ours is not None)
