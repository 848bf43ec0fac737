"""A layer of Llama in plain torch, and what of its tensors is allocated at any time: another opinion for plans' tests.

Storages are followed by weak references from operation to operation, in the order in which the host hands them out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
MM = torch.ops.aten.mm.default


class Allocated(TorchDispatchMode):
    """Follows every storage that an operation inside reads or makes."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, StorageWeakRef] = {}
        self.label = ""
        self.most: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = len(self.known)
        self.follow(args, out)
        if len(self.known) > before or func._schema.is_mutable:  # something new, or an emptied storage in use again
            self.most[self.label] = max(self.most.get(self.label, 0), self.now())
        return out

    def follow(self, *tensors: Any) -> None:
        """From now on these count too."""
        for each in tree_leaves(tensors):
            if type(each) is Tensor or type(each) is nn.Parameter:
                storage = each.untyped_storage()
                if storage._cdata not in self.known:
                    self.known[storage._cdata] = StorageWeakRef(storage)

    def now(self) -> int:
        """Bytes of all that is alive; an emptied storage has none."""
        self.known = {key: ref for key, ref in self.known.items() if not ref.expired()}
        return sum(torch.UntypedStorage._new_with_weak_ptr(ref.cdata).nbytes() for ref in self.known.values())


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Layer(nn.Module):
    """Attention and a gated feed-forward, each behind a norm and beside a residual; rotation by plain products.

    `sizes`: heads, key-value heads, width of a head and of the feed-forward. The norms' weights come last, as in
    torchtitan: FSDP2 frees the last weight's gradient later than the others'.
    """

    def __init__(self, h: int, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        heads, kv_heads, d, f = sizes
        self.heads, self.kv_heads, self.d = heads, kv_heads, d
        shapes = {"q": (heads * d, h), "k": (kv_heads * d, h), "v": (kv_heads * d, h), "o": (h, heads * d)}
        for name, (out, into) in (shapes | {"gate": (f, h), "up": (f, h), "down": (h, f)}).items():
            setattr(self, name, nn.Linear(into, out, bias=False, dtype=dtype))
        self.attention_norm, self.ffn_norm = Norm(h, dtype), Norm(h, dtype)

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        y = self.attention_norm(x)
        q, k, v = (
            each(y).view(batch, seq, n, self.d)
            for each, n in ((self.q, self.heads), (self.k, self.kv_heads), (self.v, self.kv_heads))
        )
        q, k = q * 0.5 + q.flip(-1) * 0.5, k * 0.5 + k.flip(-1) * 0.5
        k, v = (each.repeat_interleave(self.heads // self.kv_heads, dim=2) for each in (k, v))
        out = FLASH(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0.0, True)[0]
        x = x + self.o(out.transpose(1, 2).reshape(batch, seq, self.heads * self.d))
        y = self.ffn_norm(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Model(nn.Module):
    """Embedding, layers, last norm and head."""

    def __init__(self, vocabulary: int, h: int, layers: int, *of_layer: int, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, h)
        self.layers = nn.ModuleList(Layer(h, of_layer, torch.float32) for _ in range(layers))
        self.norm, self.head = Norm(h, torch.float32), nn.Linear(h, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def sharded(
    model: Model, devices: int, *, layers: bool, last: bool, ahead: int, reduce: torch.dtype, replicas: int = 1
) -> Any:
    """The model under FSDP2 on the first of so many devices, whose collectives do nothing, grouped as torchtitan does.

    Args:
        layers, last: whether layers (and the embedding), and norm with head, go after their forward.
        ahead: groups in explicit prefetch lists; 1: none.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduce)
    shape = (devices,) if replicas == 1 else (replicas, devices // replicas)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards")[-len(shape) :])
    tied = model.head.weight is model.embed.weight
    ends = [model.embed, model.norm, model.head] if tied else [model.norm, model.head]
    groups = [*([] if tied else [model.embed]), *model.layers]
    for each in groups:
        fully_shard(each, mesh=mesh, mp_policy=policy, reshard_after_forward=layers)
    fully_shard(ends, mesh=mesh, mp_policy=policy, reshard_after_forward=last)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    order = [*groups, model.norm]
    for i, each in enumerate(order if ahead > 1 else ()):
        each.set_modules_to_forward_prefetch([m for m in order[i + 1 : i + 1 + ahead] if m is not each])
        each.set_modules_to_backward_prefetch(order[max(0, i - ahead) : i][::-1])
    return model


def stepped(model: Any, vocabulary: int, seq: int, micro_batches: int) -> dict[str, int]:
    """The most that is alive in the last micro-batch's forward, and in its backward [bytes]."""
    followed = Allocated()
    followed.follow([p.to_local() for p in model.parameters()])
    with followed:
        for _ in range(micro_batches):
            followed.most.clear()
            ids = torch.zeros(1, seq, dtype=torch.int64)
            followed.label = "forward"
            loss = functional.cross_entropy(model(ids).flatten(0, 1).float(), ids.flatten())
            followed.label = "backward"
            loss.backward()
    return followed.most
