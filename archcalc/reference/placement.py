"""Where torch's own DTensor puts every parameter of the twin: elements on one device of a mesh, with no device there.

The process group is torch's fake one, and the weights lie on meta. Tensor parallelism divides as Megatron-LM does
(arXiv:1909.08053): columns of what goes in, rows of what comes out, words of embedding and head; routed experts go to
expert-parallel devices whole, and their width to expert-tensor-parallel ones. Everything else stands on every device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd, prod

from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from archcalc.reference.experts import StackedLinear
from archcalc.reference.gqa import GQA
from archcalc.reference.model import Model, MultimodalModel, prediction_paths, text_of

COLUMNS = frozenset(
    {"q_proj", "k_proj", "v_proj", "q_b_proj", "kv_b_proj", "g_proj", "gate_proj", "up_proj", "eh_proj"}
)
ROWS = frozenset({"o_proj", "down_proj"})
WORDS = frozenset({"embed_tokens", "lm_head"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Sizes of a mesh; the rest of `world` is data parallel."""

    world: int
    pp: int = 1
    tp: int = 1
    ep: int = 1
    etp: int = 1


def held(model: Model, devices: Devices, stages: Sequence[Sequence[int]], rank: int) -> dict[str, int]:
    """Path of each parameter that a device holds -> its elements there; a tied head stands under its own path.

    Pipeline stages are the outermost axis of the mesh, then data, then tensor or expert parallelism. A vision tower
    stands on every device; embedding and head on a stage with prediction modules too.

    Args:
        model: a twin on meta.
        stages: the layers of each pipeline stage.
        rank: the device.
    """
    with _device(rank, devices.world):
        dense = _mesh(devices, tp=devices.tp)
        expert = _mesh(devices, ep=devices.ep, etp=devices.etp)
        stage = dense.get_local_rank("pp")
        words = _replicated_heads(model, devices.tp)
        found = {}
        for path, module in model.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                if _stands(path, model, stages, stage):
                    where = expert if isinstance(module, StackedLinear) else dense
                    found[f"{path}.{name}"] = _local(weight, *_placed(path, name, module, where, words))
        return found


@contextmanager
def _device(rank: int, world: int) -> Iterator[None]:
    """One device of a world in which nothing is sent."""
    init_process_group(backend="fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        destroy_process_group()


def _mesh(devices: Devices, **inner: int) -> DeviceMesh:
    data = devices.world // devices.pp // prod(inner.values())
    return init_device_mesh("cpu", (devices.pp, data, *inner.values()), mesh_dim_names=("pp", "dp", *inner))


def _local(weight: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> int:
    local: Tensor = distribute_tensor(weight.detach(), mesh, placements).to_local()
    return local.numel()


def _stands(path: str, model: Model, stages: Sequence[Sequence[int]], stage: int) -> bool:
    """Whether a module is on a stage."""
    if isinstance(model, MultimodalModel) and path.startswith(model.pictures):
        return True
    body = text_of(model).model
    last = stage == len(stages) - 1
    predicts = last and bool(prediction_paths(model))
    pieces = path.split(".")
    if "layers" in pieces:
        layer = int(pieces[pieces.index("layers") + 1])
        return layer in stages[stage] or (last and layer >= body.depth)
    if pieces[-1] in ("embed_tokens", "embed_positions", "embed_norm"):
        return stage == 0 or (predicts and pieces[-1] == "embed_tokens")
    return last


def _placed(
    path: str, name: str, module: nn.Module, mesh: DeviceMesh, copied: dict[str, int]
) -> tuple[DeviceMesh, tuple[Placement, ...]]:
    """The mesh of a parameter and how each of its axes divides it."""
    own = path.rsplit(".", 1)[-1]
    if isinstance(module, StackedLinear):  # [E, out, in]
        width = 1 if own in COLUMNS else 2
        inner = Shard(width) if name == "weight" or own in COLUMNS else Replicate()
        return mesh["ep", "etp"], (Shard(0), inner)
    if own in WORDS or own in COLUMNS:
        if path in copied:
            groups = copied[path]
            pairs = init_device_mesh(
                "cpu",
                (mesh.size() // mesh["tp"].size(), groups, mesh["tp"].size() // groups),
                mesh_dim_names=("rest", "heads", "copies"),
            )
            return pairs["heads", "copies"], (Shard(0), Replicate())
        return mesh["tp"], (Shard(0),)
    if own in ROWS and name == "weight":
        return mesh["tp"], (Shard(1),)
    return mesh["tp"], (Replicate(),)


def _replicated_heads(model: Model, tp: int) -> dict[str, int]:
    """Path of each projection of keys or values that has fewer heads than `tp` -> its heads, each of them on as many
    devices as share it."""
    few = {path: each.kv_heads for path, each in model.named_modules() if isinstance(each, GQA) and each.kv_heads < tp}
    return {f"{path}.{name}": gcd(heads, tp) for path, heads in few.items() for name in ("k_proj", "v_proj")}
