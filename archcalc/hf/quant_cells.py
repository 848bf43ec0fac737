"""A quantization config asked for every weight in every layer: which scheme stores it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from archcalc.errors import InputError, show_value
from archcalc.files.schemes import AnyScheme
from archcalc.hf.quant_facts import Fact
from archcalc.hf.quant_methods import Reading, Store
from archcalc.hf.quant_rules import Cell
from archcalc.tape import Weight, product

NEVER = frozenset({"embedding", "router", "mtp"})
"""Roles that are quantized by name only, but for MLX: embeddings, routers, the joint of a prediction module."""

SCHEMES: dict[str, type[AnyScheme]] = {
    name: one for one in get_args(AnyScheme) for name in get_args(one.model_fields["scheme"].annotation)
}
"""By the name that a spec writes."""


class Config(NamedTuple):
    """A quantization config: its method, what it says, where it stands, whether it is for the text alone."""

    method: str
    data: Mapping[str, Any]
    where: str
    text_only: bool = False


class Evaluation:
    """One config, with what is known of the family's releases."""

    def __init__(
        self, reading: Reading, found: Config, fact: Fact, dtype: str, release_name: Callable[[str], str]
    ) -> None:
        self.reading, self.found, self.fact, self.dtype = reading, found, fact, dtype
        self.release_name = release_name
        self.modules: set[str] = set()
        self.undivided: set[str] = set()
        self.routers = False
        """Whether a router stays that the config does not name."""
        self.schemes: list[tuple[Store, AnyScheme]] = []
        lists = (reading.skipped, *(targets for targets, _ in reading.groups if targets is not None))
        self.alike = not reading.named and all(listed.alike for listed in lists)
        """Whether the config tells no layers apart."""

    def cells(self, weights: Sequence[Weight]) -> list[Cell]:
        """Every weight in every layer with what stores it.

        Raises:
            InputError: experts of a layer that differ, groups that don't divide, a map for another model.
        """
        buffers = any(w.role == "router_bias" and not w.trainable for w in weights)
        found = [cell for w in weights for cell in self._layers(w, buffers)]
        named = self.reading.named
        unused = named.without(self.modules)
        if unused and not named.found:
            message = (
                f"{named.key}: none of its {len(unused):,} entries is for a weight of this model, such as {unused[0]}"
            )
            raise InputError(message, value=unused[0])
        return found

    def notes(self) -> list[str]:
        """Entries of the config that are for no weight, and matrices that their groups don't divide."""
        said = []
        for listed in (self.reading.named, self.reading.skipped):
            if unused := listed.without(self.modules):
                said.append(f"{listed.key}: {len(unused):,} entries are for no weight, such as {unused[0]}.")
        if self.undivided:
            said.append(f"Not quantized, as groups don't divide their inputs: {', '.join(sorted(self.undivided))}.")
        return said

    def _layers(self, w: Weight, buffers: bool) -> list[Cell]:
        """One weight in each of its layers."""
        stays = self._stays(w)
        dtype = self.dtype if w.trainable else w.dtype
        plain: Store = {"scheme": "plain", "dtype": dtype if stays is None else stays or self.dtype}
        found: list[Cell] = []
        for n, layer in enumerate(w.indices or (None,)):
            if found and self.alike:
                found.append(found[0]._replace(layer=layer))
                continue
            name = self.release_name(w.path.replace("{i}", str(layer)))
            if self.found.text_only:  # names of the text model, whose config it is
                name = name.removeprefix("language_model.")
            self._remember(f"{name}.{w.suffix}")
            store = None
            if w.into and w.flat and stays is None:
                store = self._quantized(w, name, product(w.stack), first=n == 0, router=not buffers)
            found.append(Cell(w, layer, plain if store is None else store))
        return found

    def _stays(self, w: Weight) -> str | None:
        """The dtype of a weight that is stored plain whatever the config says; "" is the config's."""
        full = f"{w.path}.{w.suffix}"
        return next(
            (dtype for glob, dtype in self.fact.stays if fnmatchcase(w.path, glob) or fnmatchcase(full, glob)), None
        )

    def _remember(self, name: str) -> None:
        """A module and all that hold it."""
        while name and name not in self.modules:
            self.modules.add(name)
            name = name.rpartition(".")[0]

    def _quantized(self, w: Weight, name: str, experts: int, *, first: bool, router: bool) -> Store | None:
        """What quantizes a matrix, or None."""
        reading = self.reading
        if (by_name := reading.named.get(name, experts)) is not None:
            return self._fits(w, by_name[0])
        skipped = reading.skipped.holds(name, experts, first=first)
        if skipped or not self._open(w, router):
            self.routers |= (
                w.role == "router" and bool(reading.groups) and not (skipped or reading.routers or reading.embeddings)
            )
            return None
        if reading.experts is not None and w.role == "routed_expert":
            return self._fits(w, reading.experts)
        for targets, store in reading.groups:
            if targets is None or targets.holds(name, experts, first=first):
                return self._fits(w, store)
        return None

    def _open(self, w: Weight, router: bool) -> bool:
        """Whether a config is for a matrix that it does not name: what is a linear to its method."""
        reading = self.reading
        if reading.only:
            return w.role in reading.only
        if w.role == "head" and not reading.head:
            return False
        if w.role in NEVER and not (reading.embeddings and (w.role == "embedding" or (w.role == "router" and router))):
            return False
        if reading.backbone and product(w.out) == 1:  # a gate of one logit: words of several outputs can't hold it
            return False
        parts = ("backbone",) if reading.backbone else ("backbone", "mtp") if self.found.text_only else ()
        return not parts or w.part in parts

    def _fits(self, w: Weight, store: Store | None) -> Store | None:
        """A scheme if it can store a matrix. Raises InputError where it can't, unless the method leaves such plain."""
        if store is None:
            return None
        try:
            self._scheme(store).stored(w)
        except InputError as error:
            if not self.reading.lenient:
                raise InputError(f"{self.found.where}: {error.message}", value=error.value) from None
            self.undivided.add(w.path)
            return None
        return store

    def _scheme(self, store: Store) -> AnyScheme:
        """A scheme from its data. Raises InputError for a value that no such scheme has."""
        known = next((scheme for data, scheme in self.schemes if data is store), None)
        if known is None:
            try:
                known = SCHEMES[store["scheme"]].model_validate(store)
            except ValidationError as error:
                problem = error.errors()[0]
                field, value = str([*problem["loc"], ""][0]), problem["input"]
                key = next((key for key in self.found.data if key.endswith(field) or field.endswith(key)), field)
                message = f"{key} {show_value(value)} is not known in {store['scheme']}"
                raise InputError(message, value=value) from None
            self.schemes.append((store, known))
        return known
