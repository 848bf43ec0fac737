"""docs/glossary.md, generated from the table of quantities."""

from __future__ import annotations

from archcalc.documents.quantities import QUANTITIES

HEAD = """\
# Glossary of quantities

The names under `quantities` in JSON. Claims, limits, diffs and plots use the same names. They are stable: renaming one
is a breaking change. The values are exact: counts, bytes and FLOPs are integers, and one past 2^53 stands under `exact`
as text too.

This page is generated: `make schema`.
"""

GROUPS = {
    "params": "Parameters",
    "moe": "Mixture of experts",
    "projector": "Projector",
    "vision": "Images and videos",
    "flops": "FLOPs",
    "kv": "KV cache",
    "weights": "Checkpoints",
    "serve": "Serving",
    "train": "Training",
}
"""Headings by the first word of a name, in the order of the page; others follow under their own word."""

UNITS = {
    "count": "elements",
    "bytes": "bytes",
    "flops": "FLOP",
    "share": "share of 1",
    "int": "",
    "number": "",
    "bool": "yes or no",
    "tokens": "tokens",
    "ordinal": "which one",
}


def glossary_text() -> str:
    """The whole page as Markdown."""
    words = dict.fromkeys([*GROUPS, *(name.partition(".")[0] for name in QUANTITIES)])
    return HEAD + "".join(_section(word) for word in words)


def _section(word: str) -> str:
    rows = [(name, about) for name, about in QUANTITIES.items() if name.partition(".")[0] == word]
    if not rows:
        return ""
    lines = [f"\n## {GROUPS.get(word, word)}\n", "| quantity | unit | what it is |", "|---|---|---|"]
    lines += [f"| `{name}` | {UNITS.get(about.unit, about.unit)} | {about.meaning} |" for name, about in rows]
    if word == "params":
        lines.append("| `params[PATH]` | elements | Trained parameters at or below a module path. |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(glossary_text())
