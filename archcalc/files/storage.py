"""How a release stores its weights: schemes by role, or an ordered list of rules by role and by path."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, field_validator

from archcalc.errors import FieldError, InputError, did_you_mean
from archcalc.files.matching import (
    KEYS,
    Place,
    StorageKey,
    check_bounded,
    effort,
    is_alike,
    matches,
    pattern,
    suggestion,
)
from archcalc.files.schemes import AnyScheme, Fp8Block, PackQuantized, Plain, Scheme
from archcalc.limits import ENTRIES, MATCHING, field_beyond
from archcalc.section import About, Same, Section
from archcalc.tape import Stored, Tape, Weight, product

__all__ = [
    "AnyScheme",
    "Fp8Block",
    "PackQuantized",
    "Plain",
    "Release",
    "Rule",
    "Scheme",
    "Schemes",
    "Storage",
    "StorageKey",
    "StorageSection",
    "check_default",
    "check_paths",
    "check_schemes",
    "release",
    "second_copies",
]


class Rule(Section):
    """One rule of a list: what it matches (as compressed-tensors, utils/match.py, has it), and how that is stored."""

    about = About(
        "One rule of a list: what it matches, and how that is stored",
        match=(
            "A role, or a pattern of paths: a glob (*.layers.0.*), or a regular expression behind `re:`, matched from "
            "the first character on. Paths have layers and experts written out; a pattern may leave out the last "
            "piece, the parameter's own name"
        ),
        store="The scheme that stores what matches",
    )

    match: Annotated[str, Field(json_schema_extra={"minLength": 1})]
    store: Scheme

    @field_validator("match")
    @classmethod
    def _readable(cls, match: str) -> str:
        if match in ("", "re:"):
            raise InputError("the pattern is empty", value=match, hint="`*` matches every path")
        if match not in KEYS and not match.startswith("re:") and not set(match) & set(".*?["):
            hint = did_you_mean(match, KEYS) or f"a role is one of {', '.join(KEYS)}."
            hint = f"{hint} A pattern of paths has a dot or a star: {match}.*"
            raise InputError(f"no role is named {match}", value=match, hint=hint)
        if match.startswith("re:"):
            check_bounded(match.removeprefix("re:"))
        try:
            pattern(match)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"not a regular expression: {error}", value=match) from None
        return match


Schemes = Mapping[StorageKey, AnyScheme]
Storage = Schemes | Sequence[Rule]
"""A spec's storage section: schemes by role, `default` for all others; or rules, of which the first match wins."""


def _either(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A mapping or a list. What is wrong with it is said once, not once for each of the two."""
    try:
        return validate(value)
    except ValidationError:
        if not isinstance(value, dict | list):
            raise
    from pydantic import TypeAdapter

    form: Any = dict[StorageKey, Scheme] if isinstance(value, dict) else Rules
    return TypeAdapter(form, config=Section.model_config).validate_python(value)


Rules = Annotated[list[Rule], Field(max_length=ENTRIES.most)]
StorageSection = Annotated[dict[StorageKey, Scheme] | Rules, WrapValidator(_either)]


MOST_KNOWN = 100_000
"""Places whose rule is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The scheme of a whole release: from one matrix of a weight to the tensors that store it.

    Attributes:
        rules: roles or patterns with their schemes; the first match wins, the last is the default.
    """

    rules: tuple[tuple[str, AnyScheme], ...]
    _known: dict[Any, tuple[str, AnyScheme]] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, w: Weight) -> tuple[Stored, ...]:
        """The tensors of one matrix of a weight whose layers are stored alike, as `split` leaves them."""
        if len(w.indices) > 1 and self.by_layer and self._scheme(w, w.indices[-1]) != self._scheme(w, None):
            raise AssertionError(f"{w.path} is stored in several ways and was not split")
        return self._scheme(w, None).stored(w)

    @property
    def by_path(self) -> bool:
        """Whether a rule names paths: only then can layers of one weight be stored differently."""
        return any(match not in KEYS for match, _ in self.rules)

    @property
    def by_layer(self) -> bool:
        """Whether a rule may tell layers apart."""
        return any(match not in KEYS and not is_alike(match) for match, _ in self.rules)

    def split(self, weights: Iterable[Weight]) -> list[Weight]:
        """The weights, those divided whose layers are stored differently. Raises InputError as `rule` does."""
        divided = []
        for w in weights:
            parts = self._parts(w)
            divided += [w] if len(parts) == 1 else [w.replace(indices=tuple(layers)) for _, layers in parts]
        return divided

    def rule(self, w: Weight, layer: int | None = None) -> tuple[str, AnyScheme]:
        """The first rule that matches a weight in a layer, its first one if none is given.

        Raises:
            InputError: a pattern that matches some experts of the layer.
        """
        first = w.indices[0] if w.indices else 0
        layer = first if layer is None else layer
        key = (w.path, w.suffix, w.part, w.role, product(w.stack), layer, layer == first)
        known = self._known.get(key)
        if known is None:
            place = Place(w, layer)
            known = next(rule for rule in self.rules if matches(rule[0], place))
            if len(self._known) < MOST_KNOWN:
                self._known[key] = known
        return known

    def scheme(self, w: Weight) -> AnyScheme:
        """What stores a weight whose layers are stored alike."""
        return self._scheme(w, None)

    def idle(self, weights: Iterable[Weight]) -> dict[str, str | None]:
        """The rules but the default that store none of the weights.

        Each with an earlier rule that takes what it matches, or None where it matches nothing. Raises InputError as
        `rule` does.
        """
        by_layer = self.by_layer
        # Split: a layer that is stored in a way of its own is the first of its weight, of which all experts are asked.
        places = [(w, layer) for w in self.split(weights) for layer in (by_layer and w.indices) or (None,)]
        busy = {self.rule(*place)[0] for place in places}
        idle = [match for match, _ in self.rules[:-1] if match not in busy]
        return {
            match: next((self.rule(*place)[0] for place in places if matches(match, Place(*place))), None)
            for match in idle
        }

    def _parts(self, w: Weight) -> list[tuple[AnyScheme, list[int]]]:
        """The schemes of a weight, each with its layers; one scheme without layers where no rule tells them apart."""
        if not self.by_layer or not w.indices:
            return [(self._scheme(w, None), [])]
        parts: list[tuple[AnyScheme, list[int]]] = []
        for layer in w.indices:
            scheme = self._scheme(w, layer)
            alike = next((layers for known, layers in parts if known == scheme), None)
            if alike is None:
                parts.append((scheme, [layer]))
            else:
                alike.append(layer)
        return parts

    def _scheme(self, w: Weight, layer: int | None) -> AnyScheme:
        """Only matrices of linears are quantized: what else a quantized rule takes is stored by the default."""
        _, scheme = self.rule(w, layer)
        return scheme if _is_matrix(w) or isinstance(scheme, Plain) else self.rules[-1][1]


def release(storage: Storage) -> Release:
    """The scheme of a whole release. Of a mapping, `mtp` goes before the roles and `default` behind them. What a
    section is asked once it knows: it is asked several times by each command."""
    return _release(Same(storage))


@lru_cache(maxsize=64)
def _release(same: Same[Storage]) -> Release:
    storage = same.one
    if not isinstance(storage, Mapping):
        return Release(rules=tuple((rule.match, rule.store) for rule in storage))
    order = {"mtp": -1, "default": 1}
    return Release(rules=tuple(sorted(storage.items(), key=lambda entry: order.get(entry[0], 0))))


def second_copies(storage: Storage, tape: Tape) -> list[Weight]:
    """What a release stores twice: embedding and head, at their paths in each multi-token-prediction module.

    They are equal to the main model's (DeepSeek-V3 README_WEIGHTS.md), so no parameter count holds them.
    """
    named = {match for match, _ in release(storage).rules}
    copies = []
    for segment in tape.segments:
        for w in tape.weights() if segment.part == "mtp" else ():
            name = {"embedding": "embed_tokens", "head": "shared_head.head"}.get(w.role)
            if name is None or not w.of_vocabulary or f"mtp_{w.role}" not in named:
                continue
            copies.append(w.replace(path=f"{segment.path}.{name}", part="mtp", indices=segment.indices))
    return copies


def check_default(storage: Storage) -> None:
    """Raises FieldError for a section without a plain default at its end, and for a rule that stands twice."""
    if isinstance(storage, Mapping):
        default, entry = storage.get("default"), "add default: {scheme: plain, dtype: ...}"
        place: tuple[str | int, ...] = ("storage", "default")
    else:
        _check_order(_names(storage))
        default = next((rule.store for rule in storage if rule.match == "default"), None)
        entry = "end it with {match: default, store: {scheme: plain, dtype: ...}}"
        place = ("storage", len(storage) - 1, "store")
    if default is None:
        raise FieldError("storage has no default scheme", ("storage",), hint=entry)
    if not isinstance(default, Plain):
        raise FieldError(
            "storage's default must be plain: norms and biases are stored by it, and only matrices are quantized",
            place,
            hint="name the quantized roles beside a plain default",
        )


def check_schemes(storage: Storage, tape: Tape) -> None:
    """Raises FieldError for a scheme whose groups or words don't divide a weight that it stores, and for one whose
    weights are none that it can store."""
    whole = release(storage)
    holds: dict[str, bool] = {}
    for w in whole.split([*tape.weights(), *second_copies(storage, tape)]):
        match, scheme = whole.rule(w)
        if isinstance(scheme, Plain):
            continue
        holds[match] = holds.get(match, False) or _is_matrix(w)
        try:
            whole(w)
        except InputError as error:
            key = "group_size" if hasattr(scheme, "group_size") else "scheme"
            raise FieldError(error.message, (*_place(storage, match), key), hint=error.hint) from None
    for match, some in holds.items():
        if not some:
            raise FieldError(
                f"{match} has no matrix of a linear or an embedding, and no scheme quantizes anything else",
                (*_place(storage, match), "scheme"),
                hint="store it plain, or leave it to the default",
            )


def _is_matrix(w: Weight) -> bool:
    """Whether a quantized scheme can store it."""
    return bool(w.into) and w.flat


def _place(storage: Storage, match: str) -> tuple[str | int, ...]:
    """Where the scheme of a rule stands."""
    if isinstance(storage, Mapping):
        return "storage", match
    return "storage", _names(storage).index(match), "store"


def _names(rules: Sequence[Rule]) -> list[str]:
    return [rule.match for rule in rules]


def _check_order(named: list[str]) -> None:
    known: dict[str, int] = {}
    for n, match in enumerate(named):
        first = known.setdefault(match, n)
        if first < n:
            places = ("storage", n, "match"), ("storage", first, "match")
            raise FieldError(f"two rules match {match}", *places, hint="keep one of the two")
        if match == "default" and n + 1 < len(named):
            raise FieldError("the default must be the last rule: it takes all that is left", ("storage", n, "match"))


def check_paths(storage: Storage, tape: Tape) -> None:
    """Raises FieldError for a pattern that stores no weight of a model, or that tells experts apart."""
    weights, rules = [*tape.weights(), *second_copies(storage, tape)], release(storage).rules
    places = {match: ("storage", n, "match") for n, (match, _) in enumerate(rules)}
    taken = sum(effort(match, weights) for match, _ in rules if match not in KEYS)
    if taken > MATCHING.most:
        raise field_beyond(MATCHING, taken, ("storage",))
    try:
        idle = release(storage).idle(weights)
    except InputError as error:
        raise FieldError(error.message, places[str(error.value)], hint=error.hint) from None
    for match, earlier in idle.items():
        if match in KEYS:
            continue
        if earlier is None:
            raise FieldError(f"no weight matches {match}", places[match], hint=suggestion(match, weights))
        message = f"no weight is left for {match}: rules above take all that it matches"
        raise FieldError(message, places[match], places[earlier], hint="the first match wins: put it further up")
