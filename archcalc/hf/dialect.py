"""The shape of a dialect: a row of data a `model_type`, from the config's keys to the fields of a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from archcalc.hf.config import Config, Said
from archcalc.hf.draft import Draft
from archcalc.hf.inverses import Write, WriteKinds

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Fixed(NamedTuple):
    """What a class does whatever the file says, with the reason where it is not plain."""

    value: Any
    note: str = ""


class Key(NamedTuple):
    """A key of the config under another name than the field's; where it is null or missing, another key's value or
    a fixed one."""

    name: str
    null: str | None = None
    otherwise: Any = ...


class Rule(NamedTuple):
    """What takes more than one key: a function of the config, which says what it read, and one that writes it, None
    where the value follows from other fields; `name` is the key that it is about, if that is one."""

    read: Callable[[Config], Said | None]
    write: Write | None = None
    name: str = ""


Source: TypeAlias = str | Fixed | Key | Rule
"""Where a field comes from. A plain name is a key of the config."""

Table: TypeAlias = Mapping[str, "Source | Table"]
"""Fields of a section, in the order in which they are printed."""


Check: TypeAlias = Callable[[Config], object]
"""Raises SpecError for values that the class refuses together."""

Must: TypeAlias = Mapping[str, "tuple[Any, ...] | Callable[[Config], Any]"]
"""The values that a key may have which the class ignores, or a function that computes the one."""


class Layer(NamedTuple):
    """One layer: its mixer and its feed-forward by name, and the module of the mixer where that is not `self_attn`."""

    attention: str
    ffn: str
    scope: str = ""


class Pattern:
    """One half of each layer by name, and the keys that say so."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[Config], list[str]], write: WriteKinds) -> None:
        self.read, self.write = read, write

    def __call__(self, config: Config) -> list[str]:
        return self.read(config)


class LayerPattern:
    """The layers of a dialect, and the keys that say so."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[Config], list[Layer]], write: Callable[[Draft, Sequence[Layer]], None]) -> None:
        self.read, self.write = read, write

    def __call__(self, config: Config) -> list[Layer]:
        return self.read(config)


class Dialect(NamedTuple):
    """How one model type's config is read.

    Attributes:
        model_type: the config's own word.
        backbone: fields of the backbone without its layers.
        attention, ffn: the blocks that layers may name.
        layers: the layer kinds in order.
        must: keys that the class ignores, with the values that it implements.
        harmless: keys that change no size here, beside those that never do.
        architectures: class names, where the type alone does not tell (a type that transformers has not).
        class_type: the model type whose public class has this architecture; empty where there is none.
        proof: what proves a dialect without a public class.
        checks: what the class refuses of keys that belong together (transformers, `validate_architecture`).
        norm_names: modules of the norms around `attention` and `ffn`, where they have names of their own.
        scope_names: regular expressions from our module paths to the release's own, for quantization rules.
    """

    model_type: str
    backbone: Table
    attention: Mapping[str, Table]
    ffn: Mapping[str, Table]
    layers: LayerPattern
    must: Must = NOTHING
    harmless: frozenset[str] = frozenset()
    architectures: tuple[str, ...] = ()
    class_type: str = ""
    proof: str = ""
    checks: tuple[Check, ...] = ()
    scope_names: tuple[tuple[str, str], ...] = ()
    norm_names: Mapping[str, Mapping[str, str]] = NOTHING

    @property
    def of_class(self) -> str:
        """The model type whose class supplies the defaults."""
        return self.class_type or self.model_type


def fill(table: Table, config: Config) -> dict[str, Any]:
    """The fields of a section as `Said` leaves. Raises SpecError naming what is missing."""
    filled: dict[str, Any] = {}
    for name, source in table.items():
        if isinstance(source, Mapping):
            filled[name] = fill(source, config)
            continue
        said = _read(name, source, config)
        if said is not None:
            filled[name] = said
    return filled


def _read(name: str, source: Source, config: Config) -> Said | None:
    if isinstance(source, str):
        said = config.read(source)
        return said if source == name else said._replace(note=said.note or source)
    if isinstance(source, Fixed):
        return Said(source.value, (), source.note)
    if isinstance(source, Rule):
        return source.read(config)
    said = config.read(source.name, None)
    if said.value is not None:
        return said if source.name == name else said._replace(note=said.note or source.name)
    if source.null is not None:
        other = config.read(source.null)
        return Said(other.value, other.loc, f"{source.null}: {source.name} is not set", other.default)
    if source.otherwise is not ...:
        return Said(source.otherwise, (), f"{source.name} is not set")
    return Said(None, said.loc, said.note, said.default) if said.loc else config.read(source.name)


class Multimodal(NamedTuple):
    """How a model type with towers is read: a text dialect at `text_config`, a tower at `vision_config`.

    Attributes:
        model_type: the config's own word.
        text: the dialect of `text_config`, whatever that calls itself.
        vision, projector: the tower and the way into the backbone, both read from `vision_config`.
        vision_type: the model type of the tower's config class, for its defaults.
        ties: where the class reads `tie_word_embeddings`: at the top, or inside `text_config`.
        flat: whether the class takes text keys at the top where there is no `text_config`.
        must, harmless, proof: as a dialect's.
    """

    model_type: str
    text: Dialect
    vision: Table
    projector: Table
    vision_type: str
    ties: str = "top"
    flat: bool = False
    class_type: str = ""
    must: Must = NOTHING
    vision_must: Must = NOTHING
    harmless: frozenset[str] = frozenset()
    vision_harmless: frozenset[str] = frozenset()
    proof: str = ""
    architectures: tuple[str, ...] = ()
