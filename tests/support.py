"""What the tests have in common: specs as plain data, and archcalc run in this process or in a terminal."""

from __future__ import annotations

import copy
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import yaml

from archcalc.cli import main
from archcalc.files.loader import bundled_dir, bundled_names
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import load

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = bundled_names()


class Ran(NamedTuple):
    """One finished run of archcalc."""

    code: int
    out: str
    err: str


def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> Ran:
    """archcalc in this process, its output not a terminal."""
    out, err = io.StringIO(), io.StringIO()
    typed = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    with (
        patch.dict(os.environ, {**clean, **(env or {})}, clear=True),
        patch.object(sys, "stdin", typed),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main(list(arguments))
    return Ran(code, out.getvalue(), err.getvalue())


def answered(*arguments: str) -> dict[str, Any]:
    """The JSON document of a run that has to answer."""
    ran = run(*arguments, "--format", "json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def quantities(*arguments: str) -> dict[str, Any]:
    """The quantities of a run that has to answer."""
    found: dict[str, Any] = answered(*arguments)["quantities"]
    return found


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(columns: int, **env: str) -> Iterator[Terminal]:
    """Standard output as a terminal of this width, in colour unless `NO_COLOR` is given."""
    screen = Terminal()
    settings = {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "", "FORCE_COLOR": ""}
    with patch.dict(os.environ, {**settings, **env}), redirect_stdout(screen):
        yield screen


def run_in_pty(columns: int, *arguments: str) -> Ran:
    """archcalc as a process of its own in a real terminal of this width; `out` holds both streams."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    code = f"import sys; from archcalc.cli import main; sys.exit(main({list(arguments)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=env | {"TERM": "xterm"}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return Ran(process.wait(timeout=60), shown.decode().replace("\r\n", "\n"), "")


@lru_cache
def text(name: str) -> str:
    """The text of a bundled spec."""
    return (bundled_dir() / f"{name}.yaml").read_text()


@lru_cache
def _data(name: str) -> dict[str, Any]:
    return load(text(name), name).data


def data(name: str) -> dict[str, Any]:
    """A bundled spec as plain data of its own."""
    return copy.deepcopy(_data(name))


def written(folder: Path, content: dict[str, Any] | str) -> str:
    """The path of a spec file with this data or text."""
    path = folder / "s.yaml"
    path.write_text(content if isinstance(content, str) else dumped(content))
    return str(path)


def dumped(content: dict[str, Any]) -> str:
    """Data as YAML text, keys in their order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def spec_of(content: dict[str, Any]) -> Spec:
    """Data as a validated spec."""
    return Spec.model_validate(content)


TINY: dict[str, Any] = {
    "kind": "spec",
    "name": "tiny",
    "title": "Tiny",
    "sources": {},
    "backbone": {
        "hidden_size": 8,
        "vocab_size": 32,
        "num_hidden_layers": 3,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-6,
        "dtype": "bfloat16",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "layers": [
            {"count": 1, "attention": "gqa", "ffn": "dense"},
            {"count": 2, "attention": "gqa", "ffn": "moe"},
        ],
        "attention": {
            "gqa": {
                "kind": "gqa",
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 3,
                "rotary_dim": 2,  # features turn in pairs
                "attention_bias": False,
                "attention_out_bias": False,
                "qk_norm": None,
            }
        },
        "ffn": {
            "dense": {"kind": "dense", "intermediate_size": 20, "hidden_act": "silu", "gated": True, "mlp_bias": False},
            "moe": {
                "kind": "moe",
                "n_routed_experts": 6,
                "num_experts_per_tok": 2,
                "n_shared_experts": 1,
                "moe_intermediate_size": 5,
                "hidden_act": "silu",
                "scoring_func": "sigmoid",
                "topk_method": "noaux_tc",
                "n_group": 1,
                "topk_group": 1,
                "norm_topk_prob": True,
                "routed_scaling_factor": 1.0,
            },
        },
    },
    "storage": {"default": {"scheme": "plain", "dtype": "bfloat16"}},
}
"""A small text model with a dense layer and two MoE layers."""


def tiny(**backbone: Any) -> dict[str, Any]:
    """TINY with other values at the top of its backbone."""
    content = copy.deepcopy(TINY)
    content["backbone"] |= backbone
    return content
