"""What a run of Megatron-LM holds beside the model: what its stack says, and what its own settings add."""

from __future__ import annotations

from typing import NamedTuple

from tests.training.goldens.rows import Golden

MIB = 2**20
ASKED = 8 * 4 * MIB
"""CUBLAS_WORKSPACE_CONFIG=:4096:8."""


class Workspace(NamedTuple):
    """A buffer that stays for the whole run."""

    what: str
    nbytes: int


def deterministic(row: Golden) -> bool:
    """Whether the run asks for deterministic kernels (NVTE_ALLOW_NONDETERMINISTIC_ALGO=0, CUBLAS_WORKSPACE_CONFIG)."""
    return row.run.get("cublas") != "default"


def stack(row: Golden) -> str | None:
    """The bundled stack whose facts hold for a row; None for `--transformer-impl local` and experts without grouped
    GEMMs, which have fewer workspaces.

    The image `lts` has older libraries; those of 2025 cached no placeholder gradients (docs/validation.md).
    """
    if row["transformer_impl"] == "local" or (row.run.get("experts") and not row["grouped_gemm"]):
        return None
    late = row.container == "dev" and (row.date >= "2026" or not row["grad_accum_fusion"])
    return "megatron-core-0.14+te-2.11" if late else "megatron-2025"


def fixed(row: Golden) -> int:
    """What a plan's `memory.fixed` has to say [bytes]."""
    return sum(each.nbytes for each in workspaces(row))


def workspaces(row: Golden) -> list[Workspace]:
    """What the stack of a row does not count; all of them where it has none."""
    own = [_global_buffer(row)]
    if stack(row) is not None:
        return [*own, Workspace("what CUBLAS_WORKSPACE_CONFIG adds", 2 * (torch_workspace(row) - _unasked(row)))]
    own += [Workspace("torch's cuBLAS workspace, forward's and autograd's", 2 * torch_workspace(row))]
    return [*own, _transformer_engine(row)] if row.run.get("experts") else own


def torch_workspace(row: Golden) -> int:
    """torch's cuBLAS workspace, of which forward and autograd's thread have one each [bytes] (aten/src/ATen/cuda/
    CublasHandlePool.cpp, getCurrentCUDABlasHandle, parseChosenWorkspaceSize)."""
    return ASKED if deterministic(row) else _unasked(row)


def _unasked(row: Golden) -> int:
    """It without CUBLAS_WORKSPACE_CONFIG: 32 MiB on sm90, elsewhere 2 x 4 MiB + 8 x 16 KiB."""
    return 32 * MIB if row.device == "h100" else 2 * 4 * MIB + 8 * 16 * 1024


def _transformer_engine(row: Golden) -> Workspace:
    """A router's GEMM is TransformerEngine's whatever the layers are (Megatron-LM core/transformer/moe/moe_utils.py,
    RouterGatingLinearFunction), and with it the workspace (pytorch/cpp_extensions/gemm.py,
    get_cublas_workspace_size_bytes: 4 MiB, from sm90 on 32 MiB and 1 KiB)."""
    return Workspace("TransformerEngine's cuBLAS workspace", 4 * MIB if row.device == "a100" else 32 * MIB + 1024)


def _global_buffer(row: Golden) -> Workspace:
    """GlobalMemoryBuffer's tensor "mpu" of 16 bit (Megatron-LM core/utils.py), which stays at its largest: the gathered
    input of a sequence-parallel head, which archcalc counts itself; the scores that local attention starts from
    (core/transformer/dot_product_attention.py, matmul_input_buffer); tokens of all ranks of a TP x EP group, which the
    all-gather dispatcher gathers (core/transformer/moe/token_dispatcher.py, use_global_buffer)."""
    run = row.run
    tokens = run["mbs"] * run["seq"] // run["cp"]
    head = 2 * tokens * run["hidden"] if run["sp"] and run["tp"] > 1 else 0
    scores = gathered = 0
    if run["transformer_impl"] == "local":
        scores = 2 * (run["mbs"] * run["heads"] // run["tp"]) * run["seq"] ** 2
    if run.get("dispatcher") == "allgather":
        ranks = run["ep"] * (run.get("etp") or run["tp"])
        gathered = 2 * tokens // (run["tp"] if head else 1) * ranks * run["hidden"] if ranks > 1 else 0
    return Workspace("Megatron-LM's global buffer", max(head, scores, gathered) - head)
