"""What comes out of the reader: a spec's plain data that knows which place of the config each part comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from archcalc.errors import Problem
from archcalc.files.document import Document, Loc, Mark, cut
from archcalc.hf.config import Said


class Became(NamedTuple):
    """What became of one key of a config.

    Attributes:
        key: its path in the file, as `text_config.head_dim`; of a class default the key that the file lacks.
        value: as the file has it; None for a default.
        became: in words.
        default: whether the public class supplied it.
    """

    key: str
    value: Any
    became: str
    default: bool = False


class Imported(Document):
    """A spec read from a config file: its data, its YAML text, and places that lie in the config.

    Attributes:
        said: the spec's data with `Said` leaves.
        notes: what whoever reads the spec should know.
        supplied: a sentence for each class that supplied sizes.
        config: the file.
    """

    __slots__ = ("_receipt", "_text", "config", "notes", "places", "said", "supplied")

    def __init__(
        self,
        said: Mapping[str, Any],
        config: Document,
        receipt: list[Became],
        notes: list[str],
        supplied: Iterable[str] = (),
    ) -> None:
        places: dict[Loc, Loc] = {}
        self.data = _plain(said, (), places)
        self.said = said
        self.config = config
        self._receipt = receipt
        self.notes = notes
        self.supplied = tuple(supplied)
        self.places = places
        self.source = config.source
        self._text: str | None = None

    @property
    def receipt(self) -> list[Became]:
        """What became of each key, with the fields of the spec that it became."""
        return [_with_fields(row, self.places) for row in self._receipt]

    @property
    def text(self) -> str:  # type: ignore[override]
        """The spec as YAML."""
        if self._text is None:
            from archcalc.hf.write import written

            self._text = written(self.said, self.notes)
        return self._text

    def line(self, number: int) -> str | None:
        return self.config.line(number)

    def position(self, loc: Loc, *, key: bool = False) -> Mark:
        return self.config.position(self._place(loc), key=key)

    def _place(self, loc: Loc) -> Loc:
        """Where the config says what stands at a path of the spec, or the nearest part around it."""
        path = self.resolve(loc)
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, ())

    def _note(self, path: Loc) -> str:
        """How a value came about that the config does not say."""
        node: Any = self.said
        for part in path:
            node = node.value if isinstance(node, Said) else node
            inside: Any = node if isinstance(node, Mapping | list) else {part: None}
            node = inside[part]
        return f"{path[-1]}: {cut(node.note)}" if isinstance(node, Said) and node.note else ""

    def problem(
        self,
        message: str,
        loc: Loc = (),
        *,
        key: bool = False,
        value: object = None,
        hint: str | None = None,
        related: Iterable[tuple[Loc, str]] = (),
    ) -> Problem:
        """A problem, with the config's own name of the key where the spec has another."""
        place = self._place(loc)
        own = next((cut(part) for part in reversed(place) if isinstance(part, str)), "")
        if own not in message:
            message = f"{own}: {message}"
        if not place and (note := self._note(self.resolve(loc))):
            message = f"{message} ({note})"
        return super().problem(message, loc, key=key, value=value, hint=hint, related=related)


def _with_fields(row: Became, places: Mapping[Loc, Loc]) -> Became:
    """A row of the receipt with the fields of the spec that its key became."""
    key = tuple(row.key.split("."))
    fields = [".".join(map(str, field)) for field, loc in places.items() if loc[: len(key)] == key]
    return row._replace(became=", ".join(fields)) if fields and not row.default else row


def _plain(node: Any, loc: Loc, places: dict[Loc, Loc]) -> Any:
    """The data without notes; on the way, which place of the config each part has."""
    if isinstance(node, Said):
        if node.loc:
            places[loc] = node.loc
        return _plain(node.value, loc, places)
    if isinstance(node, Mapping):
        return {name: _plain(value, (*loc, name), places) for name, value in node.items()}
    if isinstance(node, list):
        return [_plain(value, (*loc, i), places) for i, value in enumerate(node)]
    return node
