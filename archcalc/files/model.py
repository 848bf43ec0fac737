"""The spec: one validated, frozen architecture file."""

from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from archcalc.arch.decoder import Decoder
from archcalc.arch.projector import Projection
from archcalc.arch.vision import Vision
from archcalc.errors import FieldError
from archcalc.files.schemes import Quantized
from archcalc.files.storage import StorageSection, check_default, check_paths, check_schemes, release
from archcalc.files.under import Under
from archcalc.limits import CLAIMS, ENTRIES, TEXT
from archcalc.section import About, Same, Section
from archcalc.tape import Tape
from archcalc.units import Printed, parse_printed, printed_kind
from archcalc.workload import Workload

Text = Annotated[str, Field(min_length=1, max_length=TEXT.most)]


class Claim(Under):
    """A number that somebody published: judged by `archcalc claims`.

    `plan` and `gpu` are bundled names: a spec comes from anybody, and names no file to read.
    """

    about = About(
        "A number that somebody published: judged by `archcalc claims`",
        claim="The source's own words",
        quantity="What the number is of: a quantity of docs/glossary.md, such as params.total, or params[PATH]",
        value="The number as printed (~104B, 2.1 %, 595 GB), or null where the source leaves it blank",
        source="Where it stands, down to table or section",
    )

    claim: Text
    quantity: Text
    value: str | None
    source: Text

    @field_validator("value")
    @classmethod
    def _readable(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            parse_printed(value, printed_kind(info.data.get("quantity", "")))
        return value

    @property
    def printed(self) -> Printed | None:
        """The number with the precision that it is printed in; None for a blank."""
        return None if self.value is None else parse_printed(self.value, printed_kind(self.quantity))


DESCRIPTIVE = ("kind", "name", "title", "sources", "claims")
"""Sections that say something about the model and change nothing of it."""


class Spec(Section):
    """An architecture: what it is, how its release stores it, and what has been claimed about it."""

    about = About(
        "An architecture: what it is, how its release stores it, and what has been claimed about it",
        kind="What file this is",
        name="Short name, by which commands and reports call it",
        title="The model's name, as reports print it",
        sources="Where the sizes are from, each source under a name of its own; comments may name them",
        assumed="What no source gives, a sentence each: reports of bytes say that they rest on it",
        backbone="The language model",
        vision="The vision tower; together with `projector`, or neither",
        projector="The way from the tower's features into the backbone; together with `vision`",
        storage=(
            "How the release stores each weight: a mapping from roles to schemes with a plain `default`, or a list of "
            "rules of which the first that matches wins and the last is `default`"
        ),
        claims="Numbers that somebody published about the model, for `archcalc claims` to judge",
    )

    kind: Literal["spec"]
    name: Text
    title: Text
    sources: Annotated[dict[str, Text], Field(max_length=ENTRIES.most)]
    assumed: Annotated[list[Text], Field(max_length=ENTRIES.most)] = Field(default=[])
    backbone: Decoder
    vision: Vision | None = None
    projector: Projection | None = None
    storage: StorageSection
    claims: Annotated[list[Claim], Field(max_length=CLAIMS.most)] = Field(default=[])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.vision is None) != (self.projector is None):
            have, lack = ("vision", "projector") if self.vision else ("projector", "vision")
            raise FieldError(f"{have} without {lack}: the tower's output needs a way into the backbone", (have,))
        if self.vision and self.projector:
            self._check_earlier(self.vision, self.projector)
            tower, joined, out = self.vision.output_dim, self.projector.input_dim, self.projector.output_dim
            if tower.size != joined.size:
                raise FieldError(
                    f"{joined.name} {joined.size} does not fit the tower's {tower.name} {tower.size}",
                    ("projector", joined.name),
                    ("vision", tower.name),
                )
            if self.backbone.hidden_size != out.size:
                raise FieldError(
                    f"{out.name} {out.size} does not fit the backbone's hidden_size {self.backbone.hidden_size}",
                    ("projector", out.name),
                    ("backbone", "hidden_size"),
                )
        check_default(self.storage)
        if release(self.storage).by_path:
            check_paths(self.storage, self.trace(Workload()))
        if any(isinstance(scheme, Quantized) for _, scheme in release(self.storage).rules):
            check_schemes(self.storage, self.trace(Workload()))
        return self

    def _check_earlier(self, tower: Vision, projector: Projection) -> None:
        """Raises FieldError for features of earlier layers that have no way into the backbone, or no layer there."""
        if tower.earlier and not projector.takes_earlier:
            message = f"a projector of kind {projector.kind} takes the last layer's features alone"
            raise FieldError(message, ("projector", "kind"), ("vision",))
        if tower.earlier > self.backbone.num_hidden_layers:
            message = f"{tower.earlier} layers hand on their features, each to a layer of the backbone"
            raise FieldError(message, ("vision",), ("backbone", "num_hidden_layers"))

    @property
    def assumed_sizes(self) -> list[str]:
        """What no source gives of the architecture; what is assumed of its bytes is in `assumed` alone."""
        return [text for text in self.assumed if not text.startswith("storage:")]

    def forward(self, tape: Tape) -> None:
        """Vision first, then the projector, then the backbone over text and vision tokens."""
        if self.vision is None or self.projector is None:
            self.backbone.forward(tape)
            return
        self.projector.forward(tape, self.vision.forward(tape))
        path = self.vision.text_path
        around, tape.body = (path.removesuffix(".model"), "model") if path.endswith(".model") else ("", path)
        with tape.scope(around):
            self.backbone.forward(tape)

    @property
    def sha256(self) -> str:
        """A digest of what can change a number: all but DESCRIPTIVE, as JSON with sorted keys and without defaults, so
        that comments, order of keys, form and a new name leave it as it is."""
        from hashlib import sha256
        from json import dumps

        content = self.model_dump(mode="json", exclude_defaults=True, exclude=set(DESCRIPTIVE))
        return sha256(dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def trace(self, workload: Workload) -> Tape:
        """The tape of one forward pass; cached by workload."""
        return _trace(Same(self), workload)


@lru_cache(maxsize=256)
def _trace(same: Same[Spec], workload: Workload) -> Tape:
    tape = Tape(workload)
    same.one.forward(tape)
    return tape
