"""Valid documents of every kind that a command reads: what is changed to make a case."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from archcalc.files.loader import bundled_dir, validate
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import load
from tests.families.bases import BASES
from tests.fuzz.mutate import Words
from tests.hf.configs import imported
from tests.serving.test_log import SGLANG, VLLM_0_19, VLLM_V0
from tests.support import TINY, run, written

LOGS = (VLLM_0_19, VLLM_V0, SGLANG)
FOLDERS = {"spec": "", "plan": "plans", "hardware": "hardware", "engine": "engines", "stack": "stacks"}

BUDGETS: dict[str, Any] = {
    "kind": "budgets",
    "budgets": [
        {"spec": "k25", "quantity": "params.total", "max": "1.1T", "message": "too large"},
        {"spec": "s.yaml", "quantity": "kv.bytes_per_token", "max": 1000, "context": "8k"},
        {"spec": "s.yaml", "quantity": "params[lm_head]", "max": 1e9},
        {"spec": "s.yaml", "quantity": "flops.forward", "max": 5e12, "seq": 128},
        {"spec": "s.yaml", "quantity": "serve.weights_bytes", "max": "60GiB", "gpu": "h200", "gpus": 1},
        {"spec": "s.yaml", "quantity": "train.peak_bytes", "max": "80GB", "plan": "llama-3-8b-fsdp2"},
    ],
}
BOOKS: dict[str, Any] = {
    "kind": "books",
    "books": {
        "tiny": {"plans": ["llama-3-8b-fsdp2"], "gpus": ["h200"], "gpu_count": 1, "seq": 64, "context": "1k"},
        "k25": {"gpus": ["h200"], "image": ["448x448"]},
    },
}
CLAIMS = [
    {"claim": "parameters", "quantity": "params.total", "value": "3.7K", "source": "nowhere"},
    {"claim": "cache", "quantity": "kv.bytes_per_token", "value": "72 B", "source": "nowhere", "context": "1k"},
    {"claim": "experts used", "quantity": "moe.activation_ratio", "value": "33 %", "source": "nowhere"},
]
SMALL_PLAN: dict[str, Any] = {
    "parallel": {
        "world": 4,
        "pp": 2,
        "vpp": 1,
        "layout": "auto",
        "ep": 2,
        "etp": 1,
        "tp": 1,
        "sp": False,
        "cp": 1,
        "zero": 1,
    },
    "batch": {"seq": 64, "micro_batch": 1, "global_tokens": 1024},
    "schedule": {"kind": "1f1b"},
}
"""Parts of the bundled plan that a model of three layers can run."""
ONE_DEVICE: dict[str, Any] = {
    **SMALL_PLAN,
    "parallel": {**SMALL_PLAN["parallel"], "world": 1, "pp": 1, "ep": 1},
    "activations": {
        "kernels": "fused",
        "router_probs": "out",
        "recompute": [],
        "fp8": [],
        "offload": "none",
        "moe_imbalance": 1.0,
    },
}
"""Parts of it that every model can run."""

ASKED = (
    *(("params",), ("flops", "--seq", "64"), ("kv",), ("weights",), ("claims",), ("card",)),
    *(("serve", "--gpu", "h200"), ("train", "--plan", "p.yaml")),
)
"""Commands whose answers are saved reports."""


@cache
def _bundled(folder: str, name: str) -> Any:
    path = bundled_dir() / folder / f"{name}.yaml"
    return load(path.read_text(), name).data


@cache
def names(kind: str) -> tuple[str, ...]:
    """The documents of a kind by name, in an order that does not change."""
    if kind in FOLDERS:
        own = sorted(path.stem for path in (bundled_dir() / FOLDERS[kind]).glob("*.yaml"))
        return (*own, *{"spec": (*["tiny"] * 8, *BASES), "plan": [*["small"] * 4, *["one"] * 6]}.get(kind, ()))
    return {
        "config": tuple(BASES),
        "budgets": ("budgets",),
        "books": ("books",),
        "log": tuple(map(str, range(len(LOGS)))),
        "report": tuple(map(str, range(len(ASKED)))),
        "record": ("record",),
    }[kind]


def document(kind: str, name: str) -> Any:
    """A document of one's own; of a log its text."""
    return copy.deepcopy(_document(kind, name))


@cache
def _document(kind: str, name: str) -> Any:
    make: dict[str, Callable[[], Any]] = {
        "spec": lambda: (
            {**TINY, "claims": CLAIMS} if name == "tiny" else _imported(name) if name in BASES else _bundled("", name)
        ),
        "plan": lambda: _plan(name),
        "config": lambda: BASES[name],
        "budgets": lambda: BUDGETS,
        "books": lambda: BOOKS,
        "log": lambda: LOGS[int(name)],
        "report": lambda: json.loads(_saved(int(name))),
        "record": _record,
    }
    return make[kind]() if kind in make else _bundled(FOLDERS[kind], name)


def _plan(name: str) -> Any:
    changes = {"small": SMALL_PLAN, "one": ONE_DEVICE}.get(name)
    return _bundled("plans", name) if changes is None else {**_bundled("plans", "k2-pretrain"), **changes}


def _imported(name: str) -> Any:
    """The spec of a small config."""
    found = imported(BASES[name])
    validate(found.data, found, Spec)
    return found.data


@cache
def _saved(number: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        words = [written(Path(folder), document("spec", "tiny")) if word == "SPEC" else word for word in _line(number)]
        plan = Path(folder) / "p.yaml"
        plan.write_text(json.dumps(document("plan", "small")))
        ran = run(*[str(plan) if word == "p.yaml" else word for word in words])
    assert ran.code == 0, ran.err
    return ran.out


def _line(number: int) -> list[str]:
    command, *flags = ASKED[number]
    return [command, "SPEC", *flags, "--format", "json"]


def _record() -> Any:
    """The record of a cross-check, made up: a digest that is of no spec."""
    total = {"digest": "0" * 64, "kind": "params", "parts": 3, "paths": 3, "sum": 3688}
    return {
        "command": "crosscheck-record",
        "format_version": 1,
        "key": "0" * 64,
        "title": "t",
        "tool": "archcalc",
        "totals": [total],
    }


@cache
def words_of(kind: str) -> Words:
    """What documents of a kind say under their keys: of the bundled ones and a few others, so that it is made soon."""
    some = dict.fromkeys(names(kind))
    chosen = list(some)[:: max(1, len(some) // 12)] if kind in ("spec", "config") else list(some)
    return Words([document(kind, name) for name in chosen])
