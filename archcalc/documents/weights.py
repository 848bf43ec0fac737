"""The `weights` report: bytes of the released checkpoint, or of a what-if, by role and by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archcalc.calc.weights import StoredRow, stored_rows
from archcalc.documents.document import Amount, Column, Report, Table
from archcalc.documents.paths import weight_where
from archcalc.documents.storage_notes import applied, unproven
from archcalc.errors import InputError, did_you_mean, in_its_case
from archcalc.files.loader import bundled_names, load_spec
from archcalc.files.model import Spec
from archcalc.files.storage import (
    AnyScheme,
    Fp8Block,
    Plain,
    Release,
    Schemes,
    Storage,
    StorageKey,
    release,
    second_copies,
)
from archcalc.tape import Tape, Weight
from archcalc.training.optimizer import OPTIMIZERS, optimizer
from archcalc.units import format_int
from archcalc.workload import Workload

ROLE_COLUMNS = (
    Column("role", "role"),
    Column("stored", "stored as"),
    Column("elements", "elements", "count"),
    Column("bytes", "bytes", "bytes"),
    Column("bits_per_element", "bits each", "number"),
    Column("share", "share", "share"),
)
PATH_COLUMNS = (
    Column("path", "weight"),
    Column("tensors", "tensors"),
    Column("copies", "x", "int"),
    Column("bytes", "bytes", "bytes"),
)
QUANTIZED_ROLES: tuple[StorageKey, ...] = ("attention", "dense_ffn", "routed_expert", "shared_expert")


def what_if(spec: Spec, name: str) -> Release:
    """The scheme of every weight under a storage name. Raises InputError."""
    return release(storage_named(spec, name))


def storage_name(name: str) -> str:
    """A name of `storage_named` in its own case; the name as it is where there is none such."""
    return in_its_case(name, ("released", "bf16", "fp8", *bundled_names()))


def storage_named(spec: Spec, name: str) -> Storage:
    """A storage section by name: `released`, `bf16`, `fp8` (blocks of 128x128), or another bundled spec's.

    Buffers keep the release's dtype. Raises InputError.
    """
    if name == "released":
        return spec.storage
    plain = Plain(scheme="plain", dtype="bfloat16")
    buffer: Schemes = {"router_bias": _router_bias(spec) or plain}
    if name == "bf16":
        return {"default": plain, **buffer}
    if name == "fp8":
        block = Fp8Block(scheme="fp8-block", block_size=[128, 128], scale_dtype="float32")
        quantized: Schemes = dict.fromkeys(QUANTIZED_ROLES, block)
        return {"default": plain, **quantized, **buffer}
    choices = ["released", "bf16", "fp8", *bundled_names()]
    if name not in choices:
        hint = did_you_mean(name, choices) or f"one of {', '.join(choices)}"
        raise InputError(f"unknown storage {name}", value=name, hint=hint)
    return load_spec(name).storage


def _router_bias(spec: Spec) -> AnyScheme | None:
    """How the release stores a router's bias, the first one where layers differ; None where only its default says."""
    if isinstance(spec.storage, Mapping):
        return spec.storage.get("router_bias")
    biases = (w for w in spec.trace(Workload()).weights() if w.role == "router_bias")
    named = (release(spec.storage).rule(w) for w in biases)
    return next((scheme for match, scheme in named if match != "default"), None)


def weights(spec: Spec, *, as_: str = "released", optimizer: str | None = None) -> Report:
    """The `weights` command: checkpoint bytes under a storage scheme; with an optimizer, of a training checkpoint too.

    Raises InputError.
    """
    tape, as_ = spec.trace(Workload()), storage_name(as_)
    optimizer = None if optimizer is None else in_its_case(optimizer, OPTIMIZERS)
    storage = storage_named(spec, as_)
    copies = _copies(spec, storage)
    rows = released_rows(spec, storage)
    stored_weights = [row.weight for row in rows]
    total, elements = sum(row.nbytes for row in rows), sum(row.weight.elements for row in rows)
    found: dict[str, int | float | bool] = {
        "weights.bytes": total,
        "weights.elements": elements,
        "weights.bits_per_parameter": 8 * total / elements,
    }
    tables = []
    if optimizer is not None:
        states = checkpoint_rows(tape.weights(), optimizer)
        found["weights.training_checkpoint_bytes"] = sum(row["bytes"] for row in states)
        columns = (Column("path", "part"), Column("bytes", "bytes", "bytes"))
        tables.append(Table("training_checkpoint", f"training checkpoint with {optimizer}", columns, states))
    by_path = [
        {
            **weight_where(row.weight),
            "tensors": ", ".join(f"{t.suffix} {t.dtype} {list(t.shape)}" for t in row.tensors),
            "copies": row.weight.copies,
            "bytes": row.nbytes,
            "elements": row.weight.elements,
            "role": row.weight.role,
        }
        for row in rows
    ]
    return Report(
        command="weights",
        title=f"{spec.title}: weights as {as_}",
        answer=(Amount(total, "bytes"), ", ", Amount(8 * total / elements, "number"), " bits per element"),
        spec=spec,
        inputs={"spec": spec.name, "as": as_, "optimizer": optimizer},
        quantities=found,
        rows=Table("rows", "by path", PATH_COLUMNS, by_path),
        tables=[Table("by_role", "by role", ROLE_COLUMNS, _by_role(rows, total), leads=True), *tables],
        assumptions=[*(spec.assumed if as_ == "released" else spec.assumed_sizes), *unproven(storage, tape)],
        conventions=(
            "Bytes: tensor data, without file headers.",
            "Elements: logical weights and stored buffers; no scales, shapes or packing.",
        ),
        notes=[
            *applied(as_, storage, spec.storage, tape),
            *_notes(spec, tape, rows, copies),
            *(_idle_rules(storage, stored_weights) if as_ == "released" else []),
        ],
    )


def released_rows(spec: Spec, storage: Storage | None = None) -> list[StoredRow]:
    """All that a checkpoint stores, a prediction module with its copies too where the release holds one; as the release
    stores it, or under another `storage`."""
    tape, how = spec.trace(Workload()), spec.storage if storage is None else storage
    rows = stored_rows(tape, release(how), _copies(spec, how))
    return [row for row in rows if spec.backbone.mtp_stored is not False or row.weight.part != "mtp"]


def _copies(spec: Spec, storage: Storage) -> list[Weight]:
    """Embedding and head that the release stores again with its prediction module."""
    return [] if spec.backbone.mtp_stored is False else second_copies(storage, spec.trace(Workload()))


def checkpoint_rows(weights: list[Weight], optimizer_name: str) -> list[dict[str, Any]]:
    """Training checkpoint: weights, master weights and states of trained weights, and buffers [bytes]; weights in bf16,
    or in fp32 where they are what is stepped.

    Raises InputError for an unknown optimizer.
    """
    how = optimizer(optimizer_name)
    trained = [w for w in weights if w.trained]
    buffers = sum(4 * w.elements for w in weights if not w.trained)
    dtype, item = ("bf16", 2) if how.master else ("fp32", 4)
    return [
        {"path": f"weights in {dtype}", "bytes": sum(item * w.elements for w in trained)},
        {"path": "master weights", "bytes": sum(how.master * w.elements for w in trained)},
        {"path": "moments", "bytes": sum((how.state_bytes(w) - how.master) * w.elements for w in trained)},
        {"path": "buffers in fp32", "bytes": buffers},
    ]


def _by_role(rows: list[StoredRow], total: int) -> list[dict[str, Any]]:
    groups: dict[str, list[StoredRow]] = {}
    for row in rows:
        groups.setdefault(row.weight.role, []).append(row)
    result = []
    for role, members in groups.items():
        elements, nbytes = sum(r.weight.elements for r in members), sum(r.nbytes for r in members)
        result.append(
            {
                "role": role,
                "stored": _kinds(members),
                "elements": elements,
                "bytes": nbytes,
                "bits_per_element": 8 * nbytes / elements,
                "share": nbytes / total,
            }
        )
    return result


def _kinds(members: list[StoredRow]) -> str:
    """The dtypes of a role, in the order of their first tensor."""
    return ", ".join(dict.fromkeys(" + ".join(t.dtype for t in row.tensors) for row in members))


def _notes(spec: Spec, tape: Tape, rows: list[StoredRow], copies: list[Weight]) -> list[str]:
    """What is said about multi-token prediction."""
    if not spec.backbone.num_nextn_predict_layers:
        return []
    if spec.backbone.mtp_stored is False:
        left_out = format_int(sum(w.elements for w in tape.weights() if w.part == "mtp"))
        return [f"The release does not hold the multi-token-prediction module: its {left_out} elements are left out."]
    notes = ["Multi-token-prediction weights are in, without copies of embedding and head."]
    if copies:
        doubled = sum(w.elements for w in copies)
        notes = [
            "The release stores embedding and head again with its multi-token-prediction module:"
            f" {format_int(doubled)} elements, counted here but in no params.* quantity."
        ]
    if spec.backbone.mtp_stored is None:
        uncertain = format_int(sum(row.nbytes for row in rows if row.weight.part == "mtp"))
        notes.append(
            "Whether the release holds the multi-token-prediction module is not known: without it there are"
            f" {uncertain} bytes less."
        )
    return notes


def _idle_rules(storage: Storage, weights: list[Weight]) -> list[str]:
    """A note on each rule of a list that stores nothing; a mapping may name roles that a model has not."""
    if isinstance(storage, Mapping):
        return []
    return [
        f"The storage rule for {match} matches no weight."
        if earlier is None
        else f"The storage rule for {match} stores nothing: rules above, such as the one for {earlier}, take it all."
        for match, earlier in release(storage).idle(weights).items()
    ]
