"""Stacks: what a training framework does whatever the plan says, each fact with its source; a plan may name one."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from archcalc.errors import FieldError, InputError
from archcalc.files.loader import parse, text_of
from archcalc.files.model import Text
from archcalc.hardware import Architecture, Hardware
from archcalc.section import About, Memory, Section, Size
from archcalc.training.misfit import misfit
from archcalc.training.plan import Plan

FOLDER = "stacks"

PLANNED = {
    "placeholder_grads": "memory",
    "gradient_accumulation_fusion": "memory",
    "cross_entropy": "activations",
    "attention_mask": "activations",
    "rope": "activations",
}
"""Facts that a plan may say itself, each by the section that has a field of that name."""


Framework = Literal["megatron", "deepspeed", "torchtitan"]
"""Frameworks that have rules of their own (`archcalc.training.legal`)."""


class Workspace(Section):
    """Scratch memory that a library keeps for the whole run, in torch's allocator."""

    about = About(
        "Scratch memory that a library keeps for the whole run, in torch's allocator",
        name="The library",
        source="The file and function that say how large it is",
        copies="How many a device has",
        bytes="One copy, by architecture of the device [bytes]",
        otherwise="One copy on every other architecture [bytes]",
        runs=(
            "On which ranks: `torch`, those with products that torch runs (the head, routers, all of them under eager "
            "kernels); `fused`, those with linears of fused kernels; `experts`, those with routed experts under fused "
            "kernels"
        ),
    )

    name: Text
    source: Text
    copies: Size = 1
    bytes: dict[Architecture, Memory] = Field(default_factory=dict)
    otherwise: Memory
    runs: Literal["torch", "fused", "experts"]

    def size(self, architecture: Architecture | None) -> int:
        """All copies on a device [bytes]."""
        return self.copies * (self.otherwise if architecture is None else self.bytes.get(architecture, self.otherwise))


class Stack(Section):
    """A training framework's facts."""

    about = About(
        (
            "What a training framework does whatever the plan says, each fact with its source; what a plan says "
            "itself goes before it"
        ),
        kind="What file this is",
        name="Short name, by which plans and reports call it",
        title="The framework and its versions, as reports print it",
        sources="Where each fact is from, by its key; needed for all of them but `workspaces`, which have their own",
        framework=(
            "Whose rules of legal plans hold beside those of everybody: `megatron`, `deepspeed` or `torchtitan`; left "
            "out: nobody's"
        ),
        placeholder_grads="Whether a placeholder gradient of each weight shape is cached",
        gradient_accumulation_fusion="Whether products are added into the gradients' buffer, by default",
        cross_entropy="The loss by default: `eager`, `fused`, `te` or `chunked`, as in a plan",
        attention_mask="Whether the data loader makes a mask, by default: `loader` or `none`",
        rope="Whether a kernel rotates, by default: `fused` or `unfused`",
        vocabulary_multiple=(
            "What the vocabulary is padded to a multiple of, times tp, whether tp divides it or not (Megatron-LM: "
            "--make-vocab-size-divisible-by) [tokens]"
        ),
        layers=(
            "What `layout: auto` of a plan means: `auto`, as even as can be; `weighted`, embedding and head count as "
            "a layer each, and the first stages hold one more"
        ),
        workspaces="Scratch memory beside the plan's `memory.fixed`",
    )

    kind: Literal["stack"]
    name: Text
    title: Text
    sources: dict[str, Text]
    framework: Framework | None = None
    placeholder_grads: bool
    gradient_accumulation_fusion: bool
    cross_entropy: Literal["eager", "fused", "te", "chunked"]
    attention_mask: Literal["none", "loader"]
    rope: Literal["fused", "unfused"]
    vocabulary_multiple: Size
    layers: Literal["auto", "weighted"]
    workspaces: list[Workspace]

    @model_validator(mode="after")
    def _sourced(self) -> Self:
        for fact in (*PLANNED, "vocabulary_multiple", "layers"):
            if fact not in self.sources:
                raise FieldError(f"{fact} has no source of its name", "sources", fact)
        return self

    def workspace_bytes(self, hardware: Hardware, runs: frozenset[str]) -> int:
        """Workspaces on a rank that runs what `runs` names [bytes]."""
        return sum(w.size(hardware.architecture) for w in self.workspaces if w.runs in runs)


class Settled(NamedTuple):
    """A plan with its stack's facts filled in, and the stack."""

    plan: Plan
    stack: Stack | None


def load_stack(name_or_path: str) -> Stack:
    """A stack by bundled name or path.

    Raises:
        InputError: no such file or name, or no YAML of ours.
        SpecError: a readable file that is no valid stack.
    """
    return parse(*text_of(name_or_path, FOLDER), Stack)


def _stack_of(name_or_path: str) -> Stack:
    """A plan's stack. What is wrong inside a file is said of that file."""
    try:
        return load_stack(name_or_path)
    except InputError as error:
        if error.problems[0].source is not None:
            raise
        raise misfit(error.message, "stack", value=name_or_path, hint=error.hint) from None


def settled(plan: Plan) -> Settled:
    """The plan with what its stack says wherever it says nothing itself. Raises InputError for a stack there is not."""
    if plan.stack is None:
        return Settled(plan, None)
    stack = _stack_of(plan.stack)
    filled: dict[str, dict[str, Any]] = {}
    for fact, section in PLANNED.items():
        if fact not in getattr(plan, section).model_fields_set:
            filled.setdefault(section, {})[fact] = getattr(stack, fact)
    sections = {name: getattr(plan, name).model_copy(update=facts) for name, facts in filled.items()}
    return Settled(plan.model_copy(update=sections), stack)


_WHERE = {
    "torch": "on ranks with a head or a router, and on all whose kernels torch has",
    "fused": "on ranks with fused kernels",
    "experts": "on ranks with routed experts and fused kernels",
}
"""Which ranks have a workspace, by what runs there."""


def stack_lines(plan: Plan, stack: Stack | None, hardware: Hardware) -> list[str]:
    """What a plan takes from its stack, a line each with its source; and what both say, where the plan's word holds."""
    if stack is None:
        return []
    lines = [f"stack = {stack.name}: {stack.title}"]
    for fact, section in PLANNED.items():
        said, own = getattr(stack, fact), getattr(plan, section)
        if fact not in own.model_fields_set:
            lines.append(f"{section}.{fact} = {_word(said)} (stack: {stack.sources[fact]})")
        else:
            mine = _word(getattr(own, fact))
            lines.append(f"{section}.{fact} = {mine} (the plan says so; its stack says {_word(said)})")
    multiple, source = stack.vocabulary_multiple, stack.sources["vocabulary_multiple"]
    lines.append(f"vocabulary padded to a multiple of {multiple} x tp (stack: {source})")
    if plan.parallel.layout == "auto":
        rule = {"auto": "as even as can be", "weighted": "embedding and head count as a layer each"}[stack.layers]
        lines.append(f"parallel.layout = auto: {rule} (stack: {stack.sources['layers']})")
    device = hardware.architecture or f"{hardware.name}, whose file names no architecture"
    for w in stack.workspaces:
        size = w.size(hardware.architecture)
        lines.append(f"workspace of {w.name} = {size / 2**20:g} MiB on {device}, {_WHERE[w.runs]} (stack: {w.source})")
    return lines


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
