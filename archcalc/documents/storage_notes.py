"""What a report says of a storage: what of it is unproven, and what a storage from elsewhere did not apply to."""

from __future__ import annotations

from archcalc.files.schemes import Quantized
from archcalc.files.storage import Release, Storage, release, second_copies
from archcalc.tape import Tape, Weight
from archcalc.units import format_int


def unproven(storage: Storage, tape: Tape) -> list[str]:
    """A line for each scheme that stores a weight and whose bytes no published total has shown."""
    how = release(storage)
    used = [scheme for w in how.split(tape.weights()) if isinstance(scheme := how.scheme(w), Quantized)]
    said = {scheme.scheme: scheme.unproven for scheme in used if scheme.unproven}
    return [f"storage: the bytes of {name} are unproven: {why}" for name, why in said.items()]


def applied(name: str, storage: Storage, released: Storage, tape: Tape) -> list[str]:
    """What a storage by `name` did not apply to; nothing of the release's own. One that changes nothing says so."""
    if name == "released":
        return []
    how = release(storage)
    weights = how.split(tape.weights())
    idle = [match for match, earlier in how.idle(weights).items() if earlier is None]
    named = sorted(set(idle) & {match for match, scheme in how.rules if isinstance(scheme, Quantized)})
    rules = f"the rule{'s' * (len(named) > 1)} for {', '.join(named)} match{'es' * (len(named) == 1)} no weight"
    if named and not any(isinstance(how.scheme(w), Quantized) for w in weights):
        dtypes = ", ".join(dict.fromkeys(t.dtype for w in weights for t in how(w)))
        said = [f"The storage of {name} quantizes nothing in this model: {rules}. All is stored plain, in {dtypes}."]
    else:
        said = [f"Of the storage of {name} {rules}."] if named else []
        said += _left(name, how, weights)
    if _tensors(storage, tape) == _tensors(released, tape):
        said.append(f"As {name} nothing changes: the release is stored so.")
    return said


def _left(name: str, how: Release, weights: list[Weight]) -> list[str]:
    """The matrices that a storage leaves plain, where it quantizes others."""
    left = [w for w in weights if w.into and w.flat and not isinstance(how.scheme(w), Quantized)]
    if not left or not any(isinstance(scheme, Quantized) for _, scheme in how.rules):
        return []
    roles, elements = ", ".join(dict.fromkeys(w.role for w in left)), sum(w.elements for w in left)
    return [f"Not quantized as {name}: matrices of {roles}, {format_int(elements)} elements."]


def _tensors(storage: Storage, tape: Tape) -> dict[tuple[str, str, int], object]:
    """The stored tensors of every weight in every layer, second copies among them."""
    how = release(storage)
    parts = how.split([*tape.weights(), *second_copies(storage, tape)])
    return {(w.path, w.suffix, layer): tensors for w in parts for tensors in (how(w),) for layer in w.indices or (0,)}
