"""Every number that every command prints over the bundled specs, at a revision and now: what a change changed.

    .venv/bin/python tests/all_numbers.py REV

prints each command whose exit code, quantities, rows, tables or findings differ, with the first differences, and exits
1 if any does. What is new (a quantity, a key of a row) is no difference. It is no test: a change that may change no
number is proved by it.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("quantities", "exact", "rows", "tables", "findings")

PARAMS = (
    "",
    "--by component",
    "--by role",
    "--by dtype",
    "--depth 3",
    "--top 7",
    "--explain layers.5.mlp",
    "--explain lm_head",
)
KV = (
    "",
    "--context 8191",
    "--context 100000 --batch 5 --tp 8 --block-size 16",
    "--tp 8 --dcp 8 --batch 8",
    "--tp 16",
    "--tp 3",
    "--pp 7 --dp 2 --batch 3",
    "--memory 46.80GiB --block-size 64",
    "--memory 10GiB --tp 8 --dp 2",
)
SERVE = (
    "",
    "--gpus 8",
    "--gpus 16 --dp 16 --ep all",
    "--gpus 8 --tp 8 --dcp 8 --kv-dtype fp8",
    "--gpus 16 --tp 8 --dp 2 --batch 7 --context 32k",
    "--gpus 8 --as fp8 --block-size 32 --batched-tokens 2048 --utilization 0.95",
    "--gpus 8 --tp 7",
    "--gpus 8 --language-only --overhead 5GiB --batch 3",
    "--gpus 32 --ep 32 --vision replicated",
)
TRAIN = (
    "",
    "activations.offload=none",
    "activations.recompute=[full] schedule.extra_warmup=0",
    "activations.recompute=[] activations.fp8=[] activations.offload=none",
    "activations.kernels=eager activations.offload=none",
    "vision.process=first-stage",
    "schedule.kind=zb-v schedule.extra_warmup=0",
    "schedule.kind=1f1b parallel.vpp=1 schedule.extra_warmup=0",
    "schedule.kind=dualpipe parallel.pp=8 parallel.vpp=1 schedule.extra_warmup=0",
    "schedule.kind=zb-h1 parallel.vpp=1 schedule.extra_warmup=0",
    "parallel.zero=3",
    "parallel.cp=2 parallel.ep=8",
    "parallel.cp=2 parallel.cp_comm=a2a parallel.ep=8",
    "parallel.tp=2 parallel.sp=true parallel.ep=4 parallel.etp=2",
    "activations.offload=[core_attn,expert_fc1,moe_act,mlp_norm]",
    "activations.cross_entropy=chunked",
    "activations.cross_entropy=fused",
    "precision.optimizer=adamw precision.grads=bf16",
    "activations.moe_imbalance=1.5",
    "activations.router_probs=act",
    "activations.recompute=[core_attn,mlp]",
    "activations.recompute=[moe] schedule.extra_warmup=0",
)


def commands(specs: list[str]) -> Iterator[str]:
    """Command lines, in words that a space separates."""
    for s in specs:
        yield from (f"params {s} {more}" for more in PARAMS)
        yield f"claims {s}"
        for phase, attention, logits, seq in product(
            ("train", "prefill"), ("causal", "full"), ("all", "last"), ("1", "777", "33000")
        ):
            yield f"flops {s} --phase {phase} --attention {attention} --logits {logits} --seq {seq}"
        for attention, context, mla in product(
            ("causal", "full"), ("0", "4095", "100000"), ("auto", "expanded", "absorbed")
        ):
            how = f"--attention {attention} --context {context} --mla {mla}"
            yield f"flops {s} --phase decode {how}"
            yield f"flops {s} --seq 513 --batch 3 {how}"
        yield f"flops {s} --image 1024x768 --video 9x448x448"
        yield from (
            f"kv {s} --kv-dtype {dtype} {more}" for dtype, more in product(("bf16", "fp8", "int8", "fp8_ds_mla"), KV)
        )
        yield from (f"weights {s} --as {name}" for name in ("released", "bf16", "fp8", "kimi-k2", "k25"))
        yield from (f"weights {s} --optimizer {name}" for name in ("adamw", "muon", "sgd"))
        yield from (f"serve {s} --gpu {gpu} {more}" for gpu, more in product(("h100", "h200", "mi300x"), SERVE))
        yield f"serve {s} --gpu all --context 32k"
        for more in ("", "--tp 8", "--batch 1,8 --kv-dtype bf16,fp8", "--gpu h200 --gpus 8 --tp 8 --context 1k..1M"):
            yield f"plot memory {s} {more}"
        yield from (f"plot {kind} {s}" for kind in ("kv", "flops"))
        for sets in (*TRAIN, *(f"{each} parallel.ep=1 parallel.etp=1" for each in TRAIN)):
            yield " ".join([f"train {s} --plan k2-pretrain", *(f"--set {each}" for each in sets.split())])
        yield f"plot train {s} --plan k2-pretrain"
        yield f"crosscheck {s}"
    yield from (f"diff {a} {b}" for a, b in product(specs, specs))


def dump(root: Path, specs: list[str]) -> dict[str, Any]:
    """What the archcalc of a checkout says, by command line."""
    sys.path.insert(0, str(root))
    from archcalc.cli import main

    found: dict[str, Any] = {}
    for line in commands(specs):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*line.split(), "--format", "json"])
        said = json.loads(out.getvalue()) if code < 2 else {}
        found[line] = {"code": code} | {key: said.get(key) for key in KEYS}
    return found


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Everything of `before` that `after` does not have, or has otherwise."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from differences(value, after.get(key), f"{where}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for n, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{where}[{n}]")
    elif before != after:
        old, new = (f"{len(value)} entries" if isinstance(value, list) else value for value in (before, after))
        yield f"{where.removeprefix('.')}: {old} -> {new}"


def dumped(root: Path, specs: list[str]) -> dict[str, Any]:
    """`dump` in a process of its own, so that the two versions don't meet."""
    argv = [sys.executable, str(Path(__file__).resolve()), "--dump", str(root), *specs]
    found: dict[str, Any] = json.loads(subprocess.run(argv, cwd=root, check=True, capture_output=True).stdout)
    return found


def compare(revision: str) -> int:
    """Print what changed since a revision; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(old), revision], cwd=ROOT, check=True)
        try:
            specs = sorted(path.stem for path in (old / "specs").glob("*.yaml"))
            before, after = dumped(old, specs), dumped(ROOT, specs)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    changed = {line: found for line, old in before.items() if (found := list(differences(old, after[line])))}
    for line, found in changed.items():
        print(f"{line}\n  " + "\n  ".join(found[:4]))
    print(f"{len(changed)} of {len(before)} commands differ")
    return bool(changed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--dump"]:
        json.dump(dump(Path(sys.argv[2]), sys.argv[3:]), sys.stdout)
    else:
        sys.exit(compare(sys.argv[1]))
