"""The largest inputs that are worked out, by name: docs/limits.md lists them, and what is promised below them.

Within its limits every command ends within `SECONDS` and `MEMORY` (crosscheck and report: `SECONDS_PROOF` and
`MEMORY_PROOF`); beyond one it refuses and names it. A limit is checked before the work that it bounds.
"""

from __future__ import annotations

from typing import NamedTuple

from archcalc.errors import FieldError, InputError

__all__ = ["LIMITS", "Limit", "beyond", "field_beyond", "hold"]

SECONDS, MEMORY = 10, 500_000_000
SECONDS_PROOF, MEMORY_PROOF = 60, 1_000_000_000

PAGE = "docs/limits.md"


class Limit(NamedTuple):
    """One limit: the largest number of `unit` that is worked out. `of` says what they are counted in, `instead` what
    to ask for in place of more. The name is a word that errors and the page share."""

    name: str
    most: int
    unit: str
    of: str
    instead: str


def _words(limit: Limit, asked: int) -> tuple[str, str]:
    """The message and the hint of an input beyond a limit."""
    number = f"{asked:,}" if asked.bit_length() <= 64 else "more than 2^64"
    return (
        f"{number} {limit.unit}: the limit `{limit.name}` is {limit.most:,}",
        f"{limit.instead} ({PAGE} lists the limits)",
    )


def beyond(limit: Limit, asked: int) -> InputError:
    """The error of an input beyond a limit; who knows the place adds it with `at`."""
    message, hint = _words(limit, asked)
    return InputError(message, value=asked, hint=hint)


def field_beyond(limit: Limit, asked: int, *fields: str | tuple[str | int, ...]) -> FieldError:
    """The same for a section's own validator, at these fields."""
    message, hint = _words(limit, asked)
    return FieldError(message, *fields, hint=hint)


def hold(limit: Limit, asked: int) -> None:
    """Raises InputError for more than the limit."""
    if asked > limit.most:
        raise beyond(limit, asked)


LENGTHS = Limit(
    "lengths",
    10_000,
    "sequences with a length of their own",
    "`--lengths` of `flops`",
    "FLOPs add up over sequences: ask for a part of them",
)
PICTURES = Limit(
    "pictures",
    65_536,
    "images and frames of videos in a sequence",
    "`--image`, `--video`, and `batch.images` and `batch.videos` of a plan",
    "what a tower makes of equal pictures adds up: ask for a part of them",
)
STAGES = Limit(
    "stages",
    1024,
    "pipeline stages",
    "`parallel.pp` x `parallel.vpp` of a plan",
    "lower parallel.pp or parallel.vpp",
)
VIRTUAL_STAGES = Limit(
    "virtual-stages",
    64,
    "virtual stages of a pipeline rank",
    "`parallel.vpp` of a plan",
    "lower parallel.vpp",
)
WARMUP = Limit(
    "warm-up",
    256,
    "forwards added to the warm-up",
    "`schedule.extra_warmup` of a plan",
    "gpipe runs all forwards first",
)
PREFETCH = Limit(
    "prefetch",
    64,
    "groups of weights gathered ahead",
    "`fsdp.prefetch` of a plan",
    "lower fsdp.prefetch; reshard_after_forward: false keeps all of them gathered",
)

LINES = Limit(
    "lines",
    12,
    "lines of one picture",
    "specs x batches x cache dtypes x GPUs of `plot`",
    "give fewer specs, batches, cache dtypes or GPUs",
)
PANELS = Limit("panels", 6, "panels side by side", "specs x plans of `plot train`", "give fewer specs or plans")
BARS = Limit(
    "bars",
    256,
    "bars of one picture",
    "pipeline ranks of `plot train -o PICTURE`",
    "write the numbers instead, as csv or json, or plot fewer plans",
)
YAML_BYTES = Limit(
    "yaml-bytes",
    1 << 20,
    "bytes of a YAML file",
    "a spec, a plan, a hardware file, an engine's profile, budgets",
    "a spec takes a few KiB; is this the right file?",
)
JSON_BYTES = Limit(
    "json-bytes",
    16 << 20,
    "bytes of a JSON file",
    "`config.json`, `hf_quant_config.json`, a saved report, a file of a git revision",
    "is this the right file?",
)
INDEX_BYTES = Limit(
    "index-bytes",
    64 << 20,
    "bytes of an index, or of a file of a committed report",
    "`model.safetensors.index.json`, and what `report --check` reads",
    "is this the right file?",
)
LOG_BYTES = Limit(
    "log-bytes",
    16 << 20,
    "bytes or more of a log",
    "the file of `serve --log`",
    "cut out the engine's start: head -c 16M server.log > start.log",
)
LAYER_STEPS = Limit(
    "layer-steps",
    80,
    "residual steps in layers of different kinds",
    "`backbone.layers` of a spec: a usual layer has two",
    "models have layers of a few kinds",
)
TEXT = Limit(
    "text",
    2_000,
    "characters",
    "a name, title, source or other text of a file",
    "say it in fewer words",
)
ENTRIES = Limit(
    "entries",
    1_000,
    "entries",
    "`sources`, `assumed` and a list under `storage` of a spec",
    "one pattern under storage can stand for many modules: *.self_attn.*",
)
CLAIMS = Limit(
    "claims",
    100,
    "claims",
    "`claims` of a spec",
    "keep those that are looked at",
)
QUESTIONS = Limit(
    "questions",
    60_000,
    "operations in the passes of what is asked of a spec",
    "claims and budgets of one spec: a pass for each size, and 40 for each GPU or plan",
    "ask for fewer sizes, GPUs and plans of their own",
)
MATCHING = Limit(
    "storage-matching",
    200_000_000,
    "steps of matching",
    "the patterns under `storage` of a spec, each at every weight of every layer, as often as its .* may match",
    "use roles, fewer patterns, or fewer .* in one",
)

LIMITS: tuple[Limit, ...] = (
    LENGTHS,
    PICTURES,
    STAGES,
    VIRTUAL_STAGES,
    WARMUP,
    PREFETCH,
    LINES,
    PANELS,
    BARS,
    YAML_BYTES,
    JSON_BYTES,
    INDEX_BYTES,
    LOG_BYTES,
    LAYER_STEPS,
    TEXT,
    ENTRIES,
    CLAIMS,
    QUESTIONS,
    MATCHING,
)
"""All of them, in the order of the page."""
