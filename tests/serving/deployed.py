"""What the serving tests have in common: bundled files, loaded once, and the shortest way to an answer."""

from __future__ import annotations

from functools import cache
from typing import Any

from archcalc.documents.weights import what_if
from archcalc.files.loader import load_spec
from archcalc.files.model import Spec
from archcalc.hardware import Hardware, load_hardware
from archcalc.serving.deployment import Deployment, HeldWeight, held_weights, loaded_weights
from archcalc.serving.engine import Engine, load_engine
from archcalc.serving.memory import Serving, serve
from archcalc.serving.overhead import Load, Served
from archcalc.tape import Tape
from archcalc.workload import Workload
from tests.support import data, spec_of

GIB = 2**30
CONTEXT = 131_072


@cache
def spec(name: str) -> Spec:
    return load_spec(name)


@cache
def engine(name: str = "vllm") -> Engine:
    return load_engine(name)


@cache
def gpu(name: str) -> Hardware:
    return load_hardware(name)


@cache
def llama_8b() -> Spec:
    """Llama 3.1 8B: the 70B file with the sizes of Table 3 of arXiv:2407.21783."""
    content = data("llama-3.1-70b")
    content["backbone"] |= {"hidden_size": 4096, "num_hidden_layers": 32}
    content["backbone"]["layers"] = [{"count": 32, "attention": "gqa", "ffn": "dense"}]
    content["backbone"]["attention"]["gqa"]["num_attention_heads"] = 32
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 14336
    return spec_of(content | {"name": "llama-3.1-8b", "claims": []})


def tape(of: Spec | str) -> Tape:
    return (spec(of) if isinstance(of, str) else of).trace(Workload())


def model(of: Spec | str, storage: str = "released") -> Served:
    found = spec(of) if isinstance(of, str) else of
    positions = found.backbone.max_position_embeddings
    return Served(model=found, scheme=what_if(found, storage), positions=positions)


def weights(
    of: Spec | str, storage: str = "released", *, language_only: bool = False, mtp: bool = False, **where: Any
) -> list[HeldWeight]:
    """Every loaded weight with what a device holds of it, pipeline stages aside."""
    served = model(of, storage)
    loaded = loaded_weights(served.tape, served.scheme, language_only=language_only, mtp=mtp)
    return held_weights(loaded, served.scheme, Deployment(**where))


def held(of: Spec | str, storage: str = "released", **how: Any) -> int:
    """Bytes on one device."""
    return sum(w.held for w in weights(of, storage, **how))


def held_by(of: Spec | str, ending: str, storage: str = "released", **how: Any) -> int:
    """Bytes on one device of the weights whose path ends so."""
    return sum(w.held for w in weights(of, storage, **how) if w.weight.path.endswith(ending))


def served(
    of: Spec | str,
    on: Hardware | str = "h200",
    by: Engine | str = "vllm",
    load: Load | None = None,
    draft: Spec | None = None,
    **where: Any,
) -> Serving:
    return serve(
        model(of),
        gpu(on) if isinstance(on, str) else on,
        engine(by) if isinstance(by, str) else by,
        Deployment(**where),
        load or Load(context=CONTEXT),
        None if draft is None else model(draft),
    )
