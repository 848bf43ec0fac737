"""Command lines over all commands and options of the application, read from it: a new option is tried by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any, Literal, NamedTuple, get_args, get_origin

import typer

from archcalc.cli.app import COMMANDS, application
from archcalc.documents.quantities import QUANTITIES
from archcalc.training.overrides import PATHS
from tests.fuzz.documents import words_of
from tests.fuzz.values import word
from tests.fuzz.written import json_text


class Given(NamedTuple):
    """An option or argument of a command.

    Attributes:
        name: as in the code: `kv_dtype`.
        flags: how it is written; nothing for an argument.
        metavar: what its help calls the value.
        switch: takes no value.
        many: may be repeated.
        choices: all values, where the application lists them.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    switch: bool
    many: bool
    required: bool
    choices: tuple[str, ...]


@cache
def commands() -> dict[tuple[str, ...], list[Given]]:
    """Every command by its words, with what it takes."""
    group = typer.main.get_command(application(list(COMMANDS)))
    return dict(_commands(group, ()))


def _commands(command: Any, above: tuple[str, ...]) -> Any:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*above, name))
    else:
        yield above, [_given(parameter) for parameter in command.params]


def _given(parameter: Any) -> Given:
    annotation = parameter.type_descriptor.annotation
    found = [annotation, *get_args(annotation)]
    choices = next((get_args(each) for each in found if get_origin(each) is Literal), ())
    option = parameter.param_type_name == "option"
    return Given(
        parameter.name,
        tuple(parameter.opts) if option else (),
        parameter.metavar or "",
        bool(getattr(parameter, "is_flag", False)),
        bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1,
        bool(parameter.required),
        choices,
    )


WEIGHTS = {
    "params": 14,
    "validate": 16,
    "kv": 12,
    "flops": 10,
    "weights": 9,
    "train": 18,
    "serve": 10,
    "import": 16,
    "diff": 8,
    "claims": 4,
    "card": 0.6,
    "check": 5,
    "show": 4,
    "schema": 1,
    "specs": 1,
    "crosscheck": 0.12,
    "report": 0.3,
    "plot kv": 3,
    "plot flops": 3,
    "plot train": 4,
    "plot memory": 2,
}
"""How often a command is tried: less where it takes long. One without a weight is tried as often as `show`."""

USUAL = {"serve": ("gpu",)}
"""Options that a command can hardly do without."""

File = Callable[[str], str]
"""Makes a file of a kind for the case and gives its name, or names one that is there."""

SIZES = ("1", "2", "3", "4", "8", "16", "7", "64", "0", "256", "1000000", "1000001", "4k", "128k", "1M")
LENGTHS = ("1", "64", "100", "4k", "8k", "256k", "0", "1M", "0.5k", "16G", "1,000", "15.5T", "999999999999")
MEMORIES = ("80GiB", "80GB", "1B", "0", "512 MiB", "1e9", "80G", "0.5GiB", "99999PB")
PICTURE = ("448x448", "1024x768", "1x1", "56x9999999", "0x0", "28x28")
CLIP = ("4x56x56", "1x1x1", "16x448x448", "9999999x14x14", "0x1x1")
FORMATS = ("table", "json", "json", "json", "csv", "markdown", "github", "JSON", "xml", "")
OUTPUTS = (
    *(
        "o.json",
        "o.csv",
        "o.md",
        "o.txt",
        "o.yaml",
        "-",
        "o.JSON",
        "o",
        "missing/o.json",
        ".",
        "",
        "loop.json",
        "/dev/null",
    ),
    *("/dev/full", f"{'n' * 250}.json", f"{'n' * 251}.json", "o.html", "::add-mask::o.json", "o\n.json", "o\u202e.csv"),
)
"""None of them leads out of the folder of the case."""
PICTURES = ("o.svg", "o.svg", "o.png")
DTYPES = ("bf16", "fp8", "fp8_ds_mla", "int8", "fp16", "BF16")
PARTS = (
    "lm_head",
    "model.layers.0",
    "model.layers.*",
    "model.embed_tokens",
    "",
    ".",
    "*",
    "vision_tower",
    "model.norm",
)
KINDS = ("spec", "plan", "hardware", "engine", "stack", "books", "budgets", "Spec", "x")

VALUES: dict[str, tuple[str, ...]] = {
    "format_name": FORMATS,
    "units": ("gib", "gb", "bytes", "GiB", "mb"),
    "by": ("component", "role", "dtype", "Role", "x"),
    "explain": PARTS,
    "seq": LENGTHS,
    "lengths": ("4096,1024x3", "1x1000", "64", "0", "1k,,2", "1x1000000", "x", "1x0"),
    "context": LENGTHS,
    "tokens": LENGTHS,
    "image": PICTURE,
    "video": CLIP,
    "kv_dtype": DTYPES,
    "memory": MEMORIES,
    "overhead": MEMORIES,
    "optimizer": ("adamw", "muon", "sgd", "adamw-bf16-moments", "AdamW", "x"),
    "as_name": ("released", "bf16", "fp8", "k25", "deepseek-v3", "x"),
    "rank": ("0", "0", "1", "1", "15", "16", "-1", "x"),
    "against": ("twin", "transformers", "x"),
    "only": ("params", "params,kv", "flops", "schedule", "x", ""),
    "gpus": ("auto", *SIZES),
    "ep": ("all", *SIZES),
    "utilization": ("0.9", "0.5", "1", "0", "-1", "1e-300", "nan", "1e999", "0.0001"),
    "batched_tokens": LENGTHS,
    "max_num_seqs": LENGTHS,
    "block_size": LENGTHS,
    "offload_experts": ("host", *SIZES),
    "price": ("h100=2.1", "h200=3", "h100=0", "x=1", "h100", "h100=1e9", "=1"),
    "within": ("5%", "0%", "100%", "x", "5", "-1%", "1e999%"),
    "base": ("HEAD", "HEAD~1", "--x", "main", "0" * 40),
    "directory": ("r", ".", "reports", "r/deep/er", "s.yaml", ""),
    "kind": KINDS,
}
"""Values of options by name; one without a line takes sizes, words of other options and nonsense."""

OF = {("train", "explain"): ("activations", "transient", "x")}
"""Values of options that mean another thing to one command."""

SWEPT = {
    "context": ("4k..256k", "1..2", "64..1k", "1..1", "0..1", "1..16G", "4k", ".."),
    "batch": ("1,8", "1", "0", "1,1,2", "9" * 12),
    "kv_dtype": ("bf16,fp8", *DTYPES),
}
"""The same of the plots, which sweep over several."""


def value(rng: Random, command: tuple[str, ...], option: Given, file: File, wild: int) -> str:
    """A value of an option or argument: mostly one that may be meant, one in `wild` nonsense."""
    if rng.randrange(wild) == 0:
        return word(rng)
    if option.choices:
        return rng.choice(option.choices)
    if made := _named(rng, option, file):
        return made
    if command[0] == "plot" and option.name in SWEPT:
        return _early(rng, SWEPT[option.name])
    if option.name == "output":
        return rng.choice(PICTURES if command[0] == "plot" and rng.randrange(40) == 0 else OUTPUTS)
    return _early(rng, OF.get((command[0], option.name)) or VALUES.get(option.name, SIZES))


def _early(rng: Random, values: tuple[str, ...]) -> str:
    """One of some values, those that stand first more often: they are the usual ones."""
    return values[min(rng.randrange(len(values)), rng.randrange(len(values)))]


FILES = {
    "plan": ("plan", "k2-pretrain"),
    "gpu": ("hardware", "h200"),
    "engine": ("engine", "sglang"),
    "draft": ("spec", "llama-3.1-8b"),
    "log": ("log", ""),
    "source": ("config", ""),
    "path": ("budgets", ""),
}
"""Options and arguments that name a file: of which kind, and a bundled one instead."""

ANY = ("spec", "spec", "config", "plan", "hardware", "engine", "stack", "budgets", "books")


def _named(rng: Random, option: Given, file: File) -> str | None:
    """The value of an option that names a file, or a quantity or field of one; None for every other."""
    if option.name == "override":
        path = (
            rng.choice(list(PATHS)) if rng.randrange(10) else rng.choice(("parallel", "batch", "train", "fsdp", "x.y"))
        )
        return f"{path}={_setting(rng, path)}"
    if option.name == "fail_on":
        name, sign, amount = (
            rng.choice(list(QUANTITIES)),
            rng.choice(("+", "-", "±", "")),
            rng.choice(("1%", "0", "1B", "2GiB", "1e999%")),
        )
        return f"{name}:{sign}{amount}"
    if option.name in ("spec", "specs"):
        return file(rng.choice(("spec", "spec", "spec", "config")))
    if option.name in ("base", "head") and not option.flags:
        return rng.choice(
            (file("report"), file("report"), file("spec"), file("spec"), "k25", "/dev/null", "git:HEAD:s.yaml")
        )
    if option.name in ("files", "name"):
        return file(rng.choice(ANY))
    if option.name in FILES and (option.flags or option.name in ("source", "path")):
        kind, bundled = FILES[option.name]
        return bundled if bundled and rng.randrange(8 if kind == "plan" else 2) == 0 else file(kind)
    return None


SETTINGS = (
    *(
        "1",
        "2",
        "4",
        "8",
        "3",
        "0",
        "-1",
        "256",
        "1e308",
        "5e-324",
        "1e999",
        "true",
        "null",
        "[]",
        "{}",
        "none",
        "all",
        "full",
    ),
    *(
        "[layernorm]",
        "{pp: 2}",
        "interleaved-1f1b",
        "gpipe",
        "zb-v",
        "dualpipe",
        "bf16",
        "fp32",
        "adamw",
        "muon",
        "lora(8)",
        "fused",
    ),
    *(
        "eager",
        "4k",
        "1T",
        "4GB",
        "h100",
        "megatron-2025",
        "torch-fsdp2",
        "{typical: 1.2, worst: 3}",
        "real",
        "0.5",
        "[[",
        "&a",
        "x: y",
    ),
)


NUMBERS = ("1", "2", "4", "8", "3", "16", "256", "0", "-1")


def _setting(rng: Random, path: str) -> str:
    """A value of a field of a plan: one of its kind, one that a plan has there, or any."""
    sort = rng.randrange(10)
    if sort < 5 and PATHS.get(path):
        return _early(rng, NUMBERS)
    known = words_of("plan").values.get(path.rpartition(".")[2], [])
    if sort < 8 and known:
        return json_text(rng.choice(known))
    return word(rng) if sort == 9 else rng.choice(SETTINGS)
