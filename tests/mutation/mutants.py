"""The mutants of the modules whose numbers count, and a seeded sample of them. The operators are cosmic-ray's."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation.rules import Place, Source, is_cache

TARGETS = ("tape", "calc", "training", "serving", "units.py")
"""What is mutated, below archcalc/. Each is a folder of the strata."""
UNNAMED = ("Variable",)
"""Operators that put a random number for a name: what they test is said by the others, with a seed."""
PLAIN = frozenset((*"()[]{},:;.=@", "->", ":=", "+=", "-=", "*=", "//=", "|=", "&=", "..."))
OF_NODES = {"operator": "ReplaceBinaryOperator", "comparison": "ReplaceComparisonOperator"}
"""Kinds of nodes that operators of one class change, and no other kind; so each is asked a few times, not 200."""
LEAVES = ("name", "newline", "string", "endmarker", "fstring_start", "fstring_string", "fstring_end")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place that operators of one class can change, each in a way of its own."""

    file: str
    place: Place
    function: str
    group: str
    nth: int
    """Which of the equal sites of its function this is, from 0."""
    variants: tuple[tuple[str, int], ...]
    """Operators by name, with the occurrence in the file that stands here."""
    line: str

    @property
    def folder(self) -> str:
        """The part of the package that it lies in."""
        return self.file.split("/")[1]

    def rank(self, seed: int, salt: str = "") -> str:
        """Its place in the queue: of nothing but the seed and itself, so that a change elsewhere moves no other."""
        words = (str(seed), self.file, self.function, self.group, self.line, str(self.nth), salt)
        return hashlib.sha256("\n".join(words).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A site with one of its changes made."""

    site: Site
    operator: str
    source: str
    """The whole text of the changed module."""
    old: str
    new: str
    lines: range
    """The lines of the statement that it lies in."""

    @property
    def key(self) -> str:
        """What names it from run to run, wherever the line moves."""
        return "\n".join((self.site.file, self.site.function, str(self.site.nth), "- " + self.old, "+ " + self.new))


def sites(root: Path) -> list[Site]:
    """Every site of the targets below a tree, but for what the rules don't count."""
    paths = [root / "archcalc" / target for target in TARGETS]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    operators = [name for name in sorted(operator_names()) if not name.split("/")[1].startswith(UNNAMED)]
    return [site for file in files for site in _of_file(file, file.relative_to(root).as_posix(), operators)]


def _group(operator: str) -> str:
    """The class of an operator: `core/ReplaceBinaryOperator_Add_Sub` is a ReplaceBinaryOperator."""
    return operator.split("/")[1].split("_")[0]


def _of_file(path: Path, file: str, names: Sequence[str]) -> Iterator[Site]:
    source = Source(path.read_text())
    operators: dict[str | None, list[tuple[str, Any]]] = {}
    for name in names:
        kind = next((kind for kind, group in OF_NODES.items() if group == _group(name)), None)
        operators.setdefault(kind, []).append((name, get_operator(name)()))
    counts: Counter[str] = Counter()
    found: dict[tuple[str, Place], list[tuple[str, int]]] = defaultdict(list)
    for node in ast_nodes(get_ast(source.text)):
        if node.type in LEAVES or (node.type == "operator" and node.value in PLAIN):
            continue
        signature = node.type == "operator" and node.parent.type in ("parameters", "param", "lambdef")
        for name, operator in operators[node.type if node.type in OF_NODES else None]:
            for start, _ in operator.mutation_positions(node):
                if not signature:
                    found[_group(name), start].append((name, counts[name]))
                counts[name] += 1
    seen: Counter[tuple[str, str, str]] = Counter()
    for (group, place), variants in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        line, function = source.lines[place[0] - 1].strip(), source.function(place)
        if not source.is_counted(place) or (group == "RemoveDecorator" and is_cache(line)):
            continue
        same = (function, group, line)
        yield Site(
            file=file,
            place=place,
            function=function,
            group=group,
            nth=seen[same],
            variants=tuple(variants),
            line=line,
        )
        seen[same] += 1


def sample(root: Path, size: int, seed: int) -> list[Mutant]:
    """So many mutants, of each folder and class of operators in proportion to its sites, at most one of a site."""
    strata: dict[tuple[str, str], list[Site]] = defaultdict(list)
    for site in sites(root):
        strata[site.folder, site.group].append(site)
    chosen: list[Mutant] = []
    for stratum, share in sorted(shares({key: len(held) for key, held in strata.items()}, size).items()):
        queue = sorted(strata[stratum], key=lambda site: site.rank(seed))
        made = (mutant for site in queue if (mutant := _changed(root, site, seed)) is not None)
        chosen += [mutant for mutant, _ in zip(made, range(share), strict=False)]
    return chosen


def shares(sizes: dict[tuple[str, str], int], total: int) -> dict[tuple[str, str], int]:
    """`total` split in proportion to the sizes, by largest remainder."""
    whole = sum(sizes.values())
    total = min(total, whole)
    split = {key: size * total // whole for key, size in sizes.items()}
    rest = sorted(sizes, key=lambda key: (-(sizes[key] * total % whole), str(key)))
    for key in rest[: total - sum(split.values())]:
        split[key] += 1
    return split


def _changed(root: Path, site: Site, seed: int) -> Mutant | None:
    """The change that the seed chooses of those that compile and change what the module means."""
    text = (root / site.file).read_text()
    for name, occurrence in sorted(site.variants, key=lambda each: site.rank(seed, str(each))):
        made = mutate_code(text, get_operator(name)(), occurrence)
        if made is not None and _compiles(made):
            old, new = difference(text, made)
            lines = Source(text).statement(site.place)
            return Mutant(site=site, operator=name.split("/")[1], source=made, old=old, new=new, lines=lines)
    return None


def _compiles(text: str) -> bool:
    try:
        compiled(text)
    except (SyntaxError, ValueError):
        return False
    return True


def compiled(text: str) -> CodeType:
    """The code of a changed module. Raises SyntaxError also for what Python only warns of, as `is` beside a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        return compile(text, "mutant", "exec")


def difference(before: str, after: str) -> tuple[str, str]:
    """The lines that differ of two texts that differ in one place, stripped."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return " ".join(line.strip() for line in old), " ".join(line.strip() for line in new)
