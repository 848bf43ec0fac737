"""What a run of Megatron-LM holds beside the model: workspaces, each with the code that makes it.

They make `memory.fixed` of a golden's plan: archcalc knows what a model keeps, not what libraries allocate.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.training.goldens.rows import Golden

MIB = 2**20
HOPPER, BLACKWELL = {"h100", "h200"}, {"gb200", "b200"}


class Workspace(NamedTuple):
    """A buffer that stays for the whole run."""

    what: str
    nbytes: int
    late: bool = False


def workspaces(row: Golden) -> list[Workspace]:
    """All of a run."""
    return [*_torch(row), *_transformer_engine(row), *_scores(row)]


def fixed(row: Golden, *, first: bool = False) -> int:
    """Their sum [bytes]; `first`: without those that the first backward has not made yet."""
    return sum(each.nbytes for each in workspaces(row) if not (first and each.late))


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
    (pytorch/cpp_extensions/gemm.py, get_cublas_workspace_size_bytes; module/base.py, get_multi_stream_cublas_workspace).
    """
    if row["transformer_impl"] == "local":
        return []
    size = 4 * MIB if row.device not in HOPPER | BLACKWELL else 32 * MIB + 1024
    grouped = 4 if row["grouped_gemm"] else 0
    return [Workspace("TransformerEngine's cuBLAS workspace", size)] * (1 + grouped)


def _scores(row: Golden) -> list[Workspace]:
    """Local attention multiplies queries and keys into a buffer of GlobalMemoryBuffer, batch x heads x seq^2 of 16 bit
    (Megatron-LM core/transformer/dot_product_attention.py, matmul_input_buffer)."""
    if row["transformer_impl"] != "local":
        return []
    scores = row["mbs"] * row["heads"] // row["tp"] * row["seq"] ** 2
    return [Workspace("local attention's buffer of scores", 2 * scores)]
