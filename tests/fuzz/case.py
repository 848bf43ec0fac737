"""A case: a command line and the files that it reads, made from a seed and an index and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tests.fuzz import grammar
from tests.fuzz.choices import USUAL, WEIGHTS
from tests.fuzz.documents import document, names, words_of
from tests.fuzz.mutate import mutated
from tests.fuzz.options import Given, commands
from tests.fuzz.values import word
from tests.fuzz.written import bytes_of, damaged

LOOP = "loop.json"
"""A link to itself, in every folder."""

ENDINGS = {"log": "txt", "config": "json", "report": "json", "record": "json"}


@dataclass(frozen=True, slots=True)
class Case:
    """One run of archcalc that is to end well.

    Attributes:
        arguments: the command line, without the program's name.
        files: what lies in its folder, by path from there.
        env: variables that are set beside those of every case.
    """

    seed: int
    index: int
    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command that it asks, as far as one can tell."""
        return next((word for word in self.arguments if not word.startswith("-")), "")


def make(seed: int, index: int) -> Case:
    """The case of a seed and an index: the same on every machine."""
    return Maker(seed, index).case()


class Maker:
    """Draws one case."""

    def __init__(self, seed: int, index: int) -> None:
        self.seed, self.index = seed, index
        self.rng = Random(f"{seed}:{index}")
        self.files: dict[str, bytes] = {}
        self.changes = self.rng.choices((0, 1, 2, 3, 4), (6, 7, 3, 1, 1))[0]
        """Changes of a file at most."""
        self.wild = self.rng.choice((10, 100, 100, 100))
        """One argument in so many is nonsense."""

    def case(self) -> Case:
        """The case."""
        rng = self.rng
        known = commands()
        weights = [WEIGHTS.get(" ".join(name), 4) for name in known]
        name = rng.choices(list(known), weights)[0]
        self.command = name
        words = self._words(name, known[name])
        for _ in range(rng.choices((0, 1, 2), (40, 2, 1))[0]):
            words = self._spoilt(words)
        env = {}
        if rng.randrange(20) == 0:
            env["FORCE_COLOR"] = "1"
        if rng.randrange(20) == 0:
            env["GITHUB_STEP_SUMMARY"] = "summary.md"
        self._beside(name)
        return Case(self.seed, self.index, tuple(w.replace("\x00", "") for w in words), self.files, env)

    def _words(self, command: tuple[str, ...], takes: list[Given]) -> list[str]:
        """A command line in order: options anywhere behind the command's words."""
        rng = self.rng
        groups: list[list[str]] = []
        options = [each for each in takes if each.flags]
        for argument in takes:
            if not argument.flags:
                times = rng.choice((1, 1, 2, 3)) if argument.many else 1
                groups += [[self._value(argument)] for _ in range(times)]
        number = rng.choices((0, 1, 2, 3, 5), (3, 4, 4, 3, 1))[0]
        usual = USUAL.get(command[0], ())
        chosen = [each for each in options if (each.required or each.name in usual) and rng.randrange(20)]
        others = [each for each in options if each.many or each not in chosen]
        chosen += dict.fromkeys(rng.choice(others) for _ in range(number if others else 0))
        for option in chosen:
            flag = rng.choice(option.flags)
            given = [] if option.switch else [self._value(option)]
            joined = given and flag.startswith("--") and rng.randrange(3) == 0
            groups.insert(rng.randrange(len(groups) + 1), [f"{flag}={given[0]}"] if joined else [flag, *given])
        return [*command, *(each for group in groups for each in group)]

    def _value(self, option: Given) -> str:
        return grammar.value(self.rng, self.command, option, self.file, self.wild)

    def _spoilt(self, words: list[str]) -> list[str]:
        """A command line after one slip; what follows `-o` and `--dir` stays, which is written to."""
        rng = self.rng
        at = rng.randrange(len(words) + 1)
        if rng.randrange(2) or at == len(words):
            return words if self._writes(words, at) else [*words[:at], word(rng), *words[at:]]
        return words if self._writes(words, at) or self._writes(words, at + 1) else [*words[:at], *words[at + 1 :]]

    @staticmethod
    def _writes(words: list[str], at: int) -> bool:
        return at > 0 and words[at - 1] in ("-o", "--output", "--dir")

    def file(self, kind: str) -> str:
        """A new file of a kind, or the name of a bundled one."""
        rng = self.rng
        name = rng.choice(names(kind))
        stem = {"spec": "s", "plan": "p", "log": "l"}.get(kind, kind)
        number = sum(path.startswith(stem) for path in self.files)
        path = f"{stem}{number or ''}.{ENDINGS.get(kind, 'yaml')}"
        self.files[path] = self._content(kind, name)
        return path

    def _content(self, kind: str, name: str) -> bytes:
        rng, data = self.rng, document(kind, name)
        count = rng.randrange(self.changes + 1) if self.files else self.changes
        structural = 0 if isinstance(data, str) else sum(rng.randrange(6) > 0 for _ in range(count))
        for _ in range(structural):
            data = mutated(rng, data, words_of(kind)) if isinstance(data, dict | list) else data
        raw = bytes_of(rng, data, "text" if kind == "log" else "json" if path_is_json(kind) else "yaml")
        for _ in range(count - structural):
            raw = damaged(rng, raw)
        return raw

    def _beside(self, command: tuple[str, ...]) -> None:
        """What lies beside the files that a command names: reports of before, the spec of a budget."""
        rng = self.rng
        if command[0] == "check" and "s.yaml" not in self.files:
            self.file("spec")
        if command[0] == "report" and rng.randrange(2):
            self.files["r/books.yaml"] = self._content("books", "books")
            if rng.randrange(2):
                self.files["r/s.crosscheck.json"] = self._content("record", "record")


def path_is_json(kind: str) -> bool:
    """Whether files of a kind are JSON."""
    return ENDINGS.get(kind) == "json"
