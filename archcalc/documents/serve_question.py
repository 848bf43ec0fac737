"""What the `serve` command is asked: its flags as a question, checked, and as a document records them."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple, get_args

from archcalc.calc.kv_cache import LAYOUTS
from archcalc.documents.storage_notes import applied, unproven
from archcalc.documents.weights import storage_name, storage_named, what_if
from archcalc.errors import InputError, did_you_mean, in_its_case, show_value
from archcalc.files.model import Spec
from archcalc.hardware import Hardware, hardware_names, load_hardware
from archcalc.hf.spec import load_spec
from archcalc.serving.deployment import Vision
from archcalc.serving.engine import Sampler, load_engine
from archcalc.serving.overhead import Load, Served
from archcalc.serving.search import Question, Spread


class Asked(NamedTuple):
    """A question with what its report says of it: the spec, how its weights are stored, a price of each GPU."""

    spec: Spec
    storage: str
    question: Question
    prices: Mapping[str, float]

    def cost(self, hardware: Hardware, gpus: int) -> float | None:
        """Of so many GPUs an hour, in the user's own currency."""
        price = self.prices.get(hardware.name, hardware.price_per_hour)
        return None if price is None else price * gpus

    @property
    def storage_notes(self) -> list[str]:
        """What the storage asked for did not apply to."""
        named = storage_named(self.spec, self.storage)
        return applied(self.storage, named, self.spec.storage, self.question.served.tape)

    @property
    def storage_unproven(self) -> list[str]:
        """What is assumed or unproven of the bytes that weights take."""
        released = self.spec.assumed if self.storage == "released" else self.spec.assumed_sizes
        return [*released, *unproven(storage_named(self.spec, self.storage), self.question.served.tape)]


def question_of(spec: Spec, **flags: Any) -> Asked:
    """A question from the flags of `serve`, with all of them but `gpu` in use. Raises InputError."""
    _check_words(flags)
    if flags["mtp"] and spec.backbone.mtp_stored is False:
        message = f"the release of {spec.name} does not hold its multi-token-prediction module"
        raise InputError(message, value="--mtp", hint="leave out --mtp")
    profile, storage = load_engine(flags["engine"]), storage_name(flags["as_"])
    limit, offloaded = spec.backbone.max_position_embeddings, flags["offload_experts"]
    cached = in_its_case(flags["kv_dtype"], ("auto", *LAYOUTS))
    dtypes = ("bf16", "fp8") if cached == "auto" else (cached,)
    load = Load(
        context=limit if flags["context"] is None else flags["context"],
        batch=flags["batch"],
        kv_dtype=dtypes[0],
        utilization=flags["utilization"],
        overhead=flags["overhead"],
        batched_tokens=flags["batched_tokens"],
        max_num_seqs=flags["max_num_seqs"],
        sampler=flags["sampler"],
        eager=flags["eager"],
        block_size=flags["block_size"],
        language_only=flags["language_only"],
        mtp=flags["mtp"],
        lora_rank=flags["lora_rank"],
        offloaded=None if offloaded == "host" else offloaded or 0,
    )
    spread = Spread(
        gpus=None if flags["gpus"] == "auto" else flags["gpus"],
        tp=flags["tp"],
        pp=flags["pp"],
        dp=flags["dp"],
        ep=flags["ep"],
        dcp=flags["dcp"],
        vision=flags["vision"] or profile.tensor_parallel.vision,
        kv_dtypes=dtypes,
        auto=flags["gpus"] == "auto",
    )
    served = Served(model=spec, scheme=what_if(spec, storage), positions=limit)
    draft = None if flags["draft"] is None else _draft(load_spec(flags["draft"]))
    return Asked(
        spec,
        storage,
        Question(served=served, engine=profile, spread=spread, load=load, draft=draft),
        _prices(flags["price"] or {}),
    )


def _prices(given: Mapping[str, float]) -> dict[str, float]:
    """Prices by the names of bundled GPUs, whatever their case. Raises InputError for two of one GPU."""
    names = hardware_names()
    prices = {in_its_case(name, names): price for name, price in given.items()}
    if len(prices) < len(given):
        raise InputError("two prices are of one GPU", value=", ".join(given), hint="give one price of each GPU")
    return prices


def _check_words(flags: Mapping[str, Any]) -> None:
    """Raises InputError for a word or a price that only a caller from Python, or a saved report, can hand in."""
    for name, words in {"sampler": get_args(Sampler), "vision": get_args(Vision)}.items():
        if flags[name] is not None and flags[name] not in words:
            raise InputError(f"unknown {name} {show_value(flags[name])}", value=flags[name], hint=" or ".join(words))
    for name, price in (flags["price"] or {}).items():
        if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price < inf:
            raise InputError(f"the price of {show_value(name)} is no number: {show_value(price)}", value=price)


def _draft(spec: Spec) -> Served:
    return Served(
        model=spec, scheme=what_if(spec, "released"), positions=spec.backbone.max_position_embeddings, name=spec.name
    )


def check_prices(prices: Mapping[str, float], gpu: str) -> None:
    """Raises InputError for a price of no GPU that there is, which would say nothing."""
    names = [*hardware_names(), *([] if gpu in ("all", *hardware_names()) else [load_hardware(gpu).name])]
    for name in prices:
        if name not in names:
            hint = did_you_mean(name, names) or f"GPUs: {', '.join(names)}"
            raise InputError(f"a price names no GPU: {show_value(name)}", value=name, hint=hint)


def tower_of(asked: Asked) -> Vision | None:
    """How the tower is spread, None where none is loaded."""
    question = asked.question
    return None if question.load.language_only or asked.spec.vision is None else question.spread.vision


def inputs_of(asked: Asked) -> dict[str, Any]:
    """What was asked, as a document records it."""
    question, load, spread, engine = asked.question, asked.question.load, asked.question.spread, asked.question.engine
    return {
        "spec": asked.spec.name,
        "as": asked.storage,
        "engine": engine.name,
        "gpus": "auto" if spread.gpus is None else spread.gpus,
        "tp": spread.tp,
        "pp": spread.pp,
        "dp": spread.dp,
        "ep": spread.ep,
        "dcp": spread.dcp,
        "vision": tower_of(asked),
        "language_only": load.language_only,
        "kv_dtype": load.kv_dtype if len(spread.kv_dtypes) == 1 else "auto",
        "context": load.context,
        "batch": load.batch,
        "utilization": load.utilization if load.utilization is not None else engine.utilization,
        "overhead": load.overhead,
        "batched_tokens": load.batched_tokens,
        "max_num_seqs": load.max_num_seqs,
        "sampler": load.sampler,
        "eager": load.eager,
        "block_size": load.block_size,
        "draft": None if question.draft is None else question.draft.name,
        "mtp": load.mtp,
        "lora_rank": load.lora_rank,
        "offload_experts": "host" if load.offloaded is None else load.offloaded or None,
        "price": dict(asked.prices) or None,
    }
