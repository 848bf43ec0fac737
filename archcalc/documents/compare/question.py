"""What two specs are asked beside the standard workload: a plan, a GPU, other sizes; and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archcalc.documents.ask import called
from archcalc.documents.compare.saved import Saved
from archcalc.documents.document import Value
from archcalc.documents.kept import File, content, of_plan
from archcalc.documents.standing import CONTEXT, IMAGE, SEEN, SEQ, standing
from archcalc.errors import InputError, show_value
from archcalc.files.loader import bundled_names
from archcalc.files.model import Spec
from archcalc.workload import Images

COMPARED = "Compared at a fixed workload: "
"""How the note on what two specs are asked begins."""

LENT = {"plan": "plans", "gpu": "hardware"}
"""Flags that lend a saved report a file which it names and does not hold, and the folder of the bundled ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The flags of `archcalc diff`, as `standing` takes them."""

    plan: str | None = None
    set: Sequence[str] = ()
    gpu: str | None = None
    gpus: int | Literal["auto"] | None = None
    seq: int | None = None
    image: Images = ()
    context: int | None = None

    def __post_init__(self) -> None:
        for name, needed in (("set", "plan"), ("gpus", "gpu")):
            if getattr(self, name) and getattr(self, needed) is None:
                raise InputError(f"--{name} says nothing without --{needed}", value=name, hint=f"add --{needed}")

    def of(self, spec: Spec, label: str, *, vision: bool) -> dict[str, Value]:
        """What a spec answers; without a tower it sees no image. Of a tower only where one of the two has a `vision`.

        Raises InputError, which says of what spec.
        """
        image = self.image if spec.vision is not None else ()
        try:
            found = standing(
                spec,
                plan=self.plan,
                set=self.set,
                gpu=self.gpu,
                gpus=self.gpus,
                seq=self.seq,
                image=image,
                context=self.context,
            )
        except InputError as error:
            if error.source is None:
                raise error.at(source=label) from None
            if self.plan is None or error.source == label:
                raise
            # It stands at a field of the plan, which says nothing of whom it does not fit.
            told = [each._replace(message=f"{label}: {each.message}") for each in error.problems]
            raise InputError.from_problems(told) from None
        return {name: n for name, n in found.items() if vision or name not in SEEN}

    @property
    def twice(self) -> frozenset[str]:
        """Quantities that say nothing beside the others: 0, or equal to one of them."""
        text_alone = () if self.image else ("flops.backbone",)
        standard_length = ("kv.total_bytes",) if self.context is None else ()
        return frozenset(("flops.backward", "flops.total", "kv.bytes_per_device", *text_alone, *standard_length))

    def convention(self, *, vision: bool) -> str:
        """The workload in words, with or without a vision tower on either side."""
        shown = self.image or (IMAGE,)
        sizes = ", ".join(f"{height:,} x {width:,}" for height, width in shown)
        of_image = f"an image of {sizes}" if len(shown) == 1 else f"images of {sizes}"
        tower = f" and {of_image}" if self.image else f" and of a vision tower that is shown {of_image} pixels"
        seen = tower if vision else ""
        said = [
            f"FLOPs of a prefill of {self.seq or SEQ:,} text tokens{seen}, batch 1, causal",
            "KV cache of a sequence in bf16, its growth and what is fixed at"
            f" {CONTEXT if self.context is None else self.context:,} tokens",
            "weights as released",
        ]
        if self.gpu is not None:
            count = "the fewest that fit of" if self.gpus in (None, "auto") else f"{self.gpus} x"
            length = "the model's limit" if self.context is None else f"{self.context:,} tokens"
            said.append(f"serving one sequence of {length} on {count} {called(self.gpu, LENT['gpu'])}")
        if self.plan is not None:
            over = f" with {', '.join(self.set)}" if self.set else ""
            said.append(f"training under {called(self.plan, LENT['plan'])}{over}")
        return f"{COMPARED}{'; '.join(said)}."

    @property
    def inputs(self) -> dict[str, Any]:
        """What was asked, as a document records it. Raises InputError."""
        return {
            **{
                name: None if getattr(self, name) is None else called(getattr(self, name), folder)
                for name, folder in LENT.items()
            },
            "set": list(self.set),
            "gpus": self.gpus,
            "seq": self.seq,
            "image": [list(sides) for sides in self.image],
            "context": self.context,
        }

    def lent(self, saved: Saved | None) -> dict[str, Any]:
        """Files for a saved report: what `--plan` and `--gpu` name and it lacks, as its own `files`.

        Raises:
            InputError: a flag that a saved report, which has inputs of its own, has no use for.
        """
        for name in ("set", "gpus", "seq", "image", "context"):
            if getattr(self, name) not in (None, (), []):
                raise InputError(
                    f"--{name} is for two specs: a saved report is compared under its own inputs",
                    value=f"--{name}",
                    hint=f"leave out --{name}",
                )
        found: dict[str, Any] = {}
        for flag, folder in LENT.items():
            argument = getattr(self, flag)
            if argument is not None:
                file = _wanted(saved, flag, folder, argument)
                more = of_plan(file.name, argument) if flag == "plan" else [file]
                for each in (file, *(one for one in more[1:] if one.argument not in bundled_names(one.folder))):
                    found.setdefault(each.folder, {})[each.name] = content(each)
        return found


def _wanted(saved: Saved | None, flag: str, folder: str, argument: str) -> File:
    """A file by the name that a saved report, which lacks it, calls it by."""
    inside = content(File(folder, "", argument)).get("name")
    names = (Path(argument).name, Path(argument).stem, inside)
    lacking = missing(saved, flag, folder) if saved is not None else []
    name = next((name for name in lacking if name in names), None)
    if name is not None:
        return File(folder, name, argument)
    told = f"it lacks {', '.join(map(show_value, lacking))}" if lacking else "it has all that it was computed from"
    raise InputError(
        f"a saved report is compared under its own inputs, and {told}", value=argument, hint=f"leave out --{flag}"
    )


def missing(saved: Saved, flag: str, folder: str) -> list[str]:
    """What a saved report names by a flag, and neither holds nor finds among the bundled files."""
    said = saved.inputs.get(flag)
    held: Mapping[str, Any] = saved.files.get(folder, {})
    words = [word for word in (said if isinstance(said, list) else [said]) if isinstance(word, str) and word != "all"]
    return [word for word in words if word not in held and word not in bundled_names(folder)]
