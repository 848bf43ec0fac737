"""Job summaries and annotations of GitHub Actions: escaped, short enough, on the right lines."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archcalc.documents.claims import claims
from archcalc.documents.diff import diff_report
from archcalc.documents.document import Column, Report, Table
from archcalc.documents.params import params_report
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.render import folded, github
from archcalc.render.changes import readable

ROOT = Path(__file__).resolve().parents[2]
K25 = (ROOT / "specs" / "k25.yaml").read_text()
HOSTILE = (
    "<script>alert(1)</script> | `x` ##[add-mask]y @octocat https://evil.example www.evil.example"
    "\n::error::z \x1b[31m\u202e"
)
GITHUB_COMMENT = 65_536  # characters that GitHub takes for a comment; we keep under 60,000


@pytest.fixture(autouse=True)
def outside_of_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def head(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(K25.replace("n_routed_experts: 384", "n_routed_experts: 512"))
    return path


def commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Workflow commands of a text, parsed and unescaped the way GitHub's documents describe them."""
    found = []
    for line in text.splitlines():
        if match := re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line):
            pairs = dict(pair.split("=", 1) for pair in match[2].split(","))
            found.append((match[1], {key: plain(value) for key, value in pairs.items()}, plain(match[3])))
    return found


def plain(text: str) -> str:
    for code, char in (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def numbered(rows: int, text: str = "x") -> Report:
    found = [{"path": f"{text} {n}", "parameters": n} for n in range(rows)]
    columns = (Column("path", "path"), Column("parameters", "parameters", "count"))
    return Report(command="params", title=text, inputs={}, quantities={}, rows=Table("rows", "rows", columns, found))


# ------------------------------------------------------------------------------------------- annotations


def test_a_changed_field_is_noted_on_its_own_line(head: Path) -> None:
    ((level, where, message),) = commands(github.render(diff_report("k25", str(head)), "gib"))
    line = K25.splitlines().index("      n_routed_experts: 384") + 1
    assert level == "notice"
    assert where == {
        "file": str(head),
        "line": str(line),
        "title": "backbone.ffn.moe.n_routed_experts 384 → 512",
    }
    assert "params.total +32.94 %" in message  # 338,283,724,800 of 1,026,879,353,328


def test_an_exceeded_limit_is_an_error_on_the_line_that_did_it(head: Path) -> None:
    limits = ["params.total:+1%", "kv.bytes_per_token:±0"]
    (error, notice) = commands(github.render(diff_report("k25", str(head), limits=limits), "gib"))
    assert (error[0], notice[0]) == ("error", "notice")
    assert error[1]["line"] == notice[1]["line"]
    assert error[1]["title"] == "limit params.total:+1% exceeded"
    assert error[2].splitlines()[1] == "changed: backbone.ffn.moe.n_routed_experts 384 → 512"


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A deeper tower, a smaller latent, and a layer more, which is two fields."""
    path = tmp_path / "several.yaml"
    text = K25.replace("vt_num_hidden_layers: 27", "vt_num_hidden_layers: 30").replace("{count: 60,", "{count: 61,")
    path.write_text(
        text.replace("  num_hidden_layers: 61", "  num_hidden_layers: 62").replace("rank: 512", "rank: 480")
    )
    return path


def line_of(path: Path, text: str) -> str:
    return str(next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line))


def test_each_line_is_noted_with_the_effect_of_its_field_alone(several: Path) -> None:
    told = commands(github.render(diff_report("k25", str(several)), "gib"))
    found = {where["title"]: message for _, where, message in told}
    tower = found["vision.vt_num_hidden_layers 27 → 30"]
    assert "flops.vision +11.10 %" in tower
    assert "kv." not in tower
    latent = found["backbone.attention.mla.kv_lora_rank 512 → 480"]
    assert "kv.bytes_per_token -5.56 %" in latent  # 32 of 512 + 64 elements
    assert "flops.vision" not in latent
    layer = found["backbone.num_hidden_layers 61 → 62"]
    assert layer.startswith("with backbone.layers[1].count: ")
    assert "kv.bytes_per_token +1.64 %" in layer  # one of 61


def test_a_limit_is_noted_on_the_line_of_the_field_that_moves_its_quantity(several: Path) -> None:
    limits = ["params.vision:+1%", "kv.bytes_per_token:±0", "params.total:+0.001%"]
    found = commands(github.render(diff_report("k25", str(several), limits=limits), "gib"))
    errors = [
        (where["title"].split()[1], where["line"], message) for level, where, message in found if level == "error"
    ]
    tower, latent, depth = (line_of(several, key) for key in ("vt_num_hidden", "kv_lora_rank", "  num_hidden_layers"))
    assert [(limit, line) for limit, line, _ in errors] == [
        ("params.vision:+1%", tower),
        ("kv.bytes_per_token:±0", latent),
        ("params.total:+0.001%", depth),
        ("params.total:+0.001%", tower),
    ]
    assert errors[0][2].splitlines()[1] == "changed: vision.vt_num_hidden_layers 27 → 30"
    told = errors[2][2].splitlines()
    assert told[1] == "changed: backbone.num_hidden_layers 61 → 62; backbone.layers[1].count 60 → 61"
    assert told[2].endswith("1 of 2 changes that move it this way")


def test_what_no_field_does_by_itself_is_said_on_the_first_line(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archcalc.documents.compare.effects.MOST_FIELDS", 0)
    report = diff_report("k25", str(several), limits=["params.vision:+1%"])
    error, *notices = commands(github.render(report, "gib"))
    assert error[1]["line"] == line_of(several, "  num_hidden_layers")
    assert "no field moves it by itself; changed: " in error[2]
    assert all(message.startswith("not tried by itself; all changes together: ") for _, _, message in notices)


def test_a_file_of_the_workspace_is_named_from_its_top(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(head.parent))
    ((_, where, _),) = commands(github.render(diff_report("k25", str(head)), "gib"))
    assert where["file"] == "spec.yaml"


def test_nothing_changed_is_one_line_and_no_annotation() -> None:
    assert github.render(diff_report("k25", "k25"), "gib") == "## k25 → k25: nothing changed\n"


def test_a_change_of_a_bundled_spec_has_no_file() -> None:
    found = commands(github.render(diff_report("kimi-k2", "k25"), "gib"))
    assert found
    assert all("file" not in where and "line" not in where for _, where, _ in found)


def test_at_most_ten_of_a_level_and_the_rest_is_counted() -> None:
    # Kimi K2 to K2.5 changes 15 fields that matter: 9 are named, the tenth counts the other 6.
    found = commands(github.render(diff_report("kimi-k2", "k25"), "gib"))
    assert len(found) == 10
    assert found[-1][1]["title"] == "[6 more]"


def test_refuted_claims_are_warnings() -> None:
    report = claims(load_spec("k25"))
    refuted = [finding["claim"] for finding in report.findings if finding["verdict"] == "refuted"]
    found = commands(github.render(report, "gib"))
    assert refuted
    assert [where["title"] for level, where, _ in found if level == "warning"] == refuted


def test_a_difference_of_a_cross_check_is_an_error() -> None:
    findings = [{"path": "a.b", "difference": 0}, {"path": "a.c", "difference": -3}]
    report = Report(command="crosscheck", title="t", inputs={}, quantities={}, findings=findings)
    assert commands(github.render(report, "gib")) == [("error", {"title": "a.c"}, "-3")]


def test_other_commands_are_noted_with_their_first_numbers() -> None:
    ((level, where, message),) = commands(github.render(params_report(load_spec("k25")), "gib"))
    assert (level, where["title"]) == ("notice", "Kimi K2.5")
    assert message.startswith("total 1,026,879,353,328, ")


@pytest.mark.parametrize(
    ("text", "message", "title"),
    [
        ("50%", "50%25", "50%25"),
        ("a\nb\r\nc", "a%0Ab%0Ac", "a\\nb\\r\\nc"),
        ("k: v, w", "k: v, w", "k%3A v%2C w"),
        ("::error::x", "::error::x", "%3A%3Aerror%3A%3Ax"),
        ("%0A", "%250A", "%250A"),
        ("\x1b[31m", "\\x1b[31m", "\\x1b[31m"),
    ],
)
def test_messages_and_properties_are_escaped(text: str, message: str, title: str) -> None:
    assert str(github.Annotation("error", text, text)) == f"::error title={title}::{message}"


# ------------------------------------------------------------------------------------------- job summary


def test_the_summary_is_appended(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    first = github.render(diff_report("k25", str(head)), "gib")
    github.render(diff_report("k25", "k25"), "gib")
    text = summary.read_text()
    assert text.startswith("before\n## k25 → ")
    assert text.count("\n## k25 → ") == 2
    assert all(line.startswith("::notice ") for line in first.splitlines())


def test_without_a_summary_the_markdown_is_printed(head: Path) -> None:
    text = github.render(diff_report("k25", str(head)), "gib")
    assert text.startswith("## k25 → ")
    assert text.splitlines()[-1].startswith("::notice ")


def test_a_summary_that_can_not_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    with pytest.raises(InputError, match="can't write the job summary"):
        github.render(diff_report("k25", "k25"), "gib")


# ----------------------------------------------------------------------------------------------- Markdown


def test_the_answer_stands_open_and_the_paths_are_folded(head: Path) -> None:
    text = folded.render(readable(diff_report("k25", str(head), limits=["params.total:+1%"]), "gib"), "gib")
    opened = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    for line in (
        "| params.total:+1% | 1,026,879,353,328 |",
        "| params.total | 1,026,879,353,328 |",
        "| backbone.ffn.moe.n\\_routed\\_experts | 51 | 384 | 512 | +128 | +33.33 % |",
    ):
        assert line in opened
    assert "up\\_proj" in text
    assert "up\\_proj" not in opened


@pytest.mark.parametrize("rows", [10, 2000, 50_000])
def test_markdown_is_never_too_long_and_counts_what_is_missing(rows: int) -> None:
    text = folded.render(numbered(rows), "gib")
    assert len(text) <= folded.LIMIT < GITHUB_COMMENT
    shown = len(re.findall(r"^\| x \d+ \|", text, re.MULTILINE))
    more = re.search(r"\\\[([0-9,]+) more\\\]", text)
    assert shown + (int(more[1].replace(",", "")) if more else 0) == rows
    assert (more is None) == (rows == 10)


def test_long_hostile_texts_do_not_make_markdown_too_long() -> None:
    report = numbered(500, "<&|`*_" * 500)
    crowded = replace(report, tables=[report.rows._replace(name=f"t{n}") for n in range(50) if report.rows])
    assert len(folded.render(crowded, "gib")) <= folded.LIMIT


def hostile_report() -> Report:
    columns = (Column("path", "path"), Column("note", HOSTILE))
    rows: list[dict[str, Any]] = [{"path": HOSTILE, "note": HOSTILE, "verdict": "refuted", "claim": HOSTILE}]
    table = Table("rows", HOSTILE, columns, rows, note=HOSTILE)
    return Report(
        command="claims",
        title=HOSTILE,
        inputs={},
        quantities={"params.total": 1},
        rows=table,
        tables=[table._replace(name="more")],
        findings=rows,
        findings_table=table._replace(name="findings"),
        assumptions=[HOSTILE],
        conventions=[HOSTILE],
        notes=[HOSTILE],
    )


def test_hostile_text_is_no_markup_no_mention_no_link_and_no_command() -> None:
    text = github.render(hostile_report(), "gib")
    assert "\x1b" not in text
    assert "\u202e" not in text
    markdown = [line for line in text.splitlines() if not line.startswith("::")]
    for line in markdown:
        assert "<script" not in line
        assert "##[" not in line
        assert "@octocat" not in line
        assert "https://" not in line
        assert "www.evil" not in line
        assert not line.lstrip().startswith("::")
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4)  # two or three cells
        assert not re.search(r"(?<!\\)`", line)
    assert [level for level, _, _ in commands(text)] == ["warning", "notice"]
