"""What a run of Megatron-LM holds beside the model: workspaces, each with the code that makes it.

They make `memory.fixed` of a golden's plan: archcalc knows what a model keeps, not what libraries allocate.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.training.goldens.rows import Golden

MIB = 2**20
HOPPER, BLACKWELL = {"h100", "h200"}, {"gb200", "b200"}


class Workspace(NamedTuple):
    """A buffer that stays for the whole run; a `late` one is made by the first backward."""

    what: str
    nbytes: int
    late: bool = False


def workspaces(row: Golden) -> list[Workspace]:
    """All of a run."""
    return [*_torch(row), *_transformer_engine(row), *_global_buffer(row)]


def fixed(row: Golden) -> int:
    """Their sum [bytes]."""
    return sum(each.nbytes for each in workspaces(row))


def _torch(row: Golden) -> list[Workspace]:
    """torch's cuBLAS workspace, one for each handle and stream; each thread has a handle, so forward and autograd's
    thread one each (aten/src/ATen/cuda/CublasHandlePool.cpp, getCurrentCUDABlasHandle, parseChosenWorkspaceSize).

    CUBLAS_WORKSPACE_CONFIG=:4096:8, which deterministic tests set, is 8 x 4 MiB; without it 32 MiB on sm90 alone,
    2 x 4 MiB + 8 x 16 KiB elsewhere.
    """
    told = row.run.get("cublas", ":4096:8") != "default"
    size = 8 * 4 * MIB if told or row.device in HOPPER else 2 * 4 * MIB + 8 * 16 * 1024
    return [Workspace("torch's cuBLAS workspace, forward", size), Workspace("autograd's", size, late=True)]


def _transformer_engine(row: Golden) -> list[Workspace]:
    """TransformerEngine's own: 4 MiB, from sm90 on 32 MiB and 1 KiB; four more where GEMMs are grouped, one a stream
    (pytorch/cpp_extensions/gemm.py, get_cublas_workspace_size_bytes; module/base.py,
    get_multi_stream_cublas_workspace).
    A router's GEMM is its own in any case (Megatron-LM core/transformer/moe/moe_utils.py, RouterGatingLinearFunction).
    """
    if row["transformer_impl"] == "local" and not row.run.get("experts"):
        return []
    size = 4 * MIB if row.device not in HOPPER | BLACKWELL else 32 * MIB + 1024
    grouped = 4 if row["grouped_gemm"] else 0
    return [Workspace("TransformerEngine's cuBLAS workspace", size)] * (1 + grouped)


def _global_buffer(row: Golden) -> list[Workspace]:
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
    return [Workspace("Megatron-LM's global buffer", max(head, scores, gathered) - head)]
