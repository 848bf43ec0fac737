"""What the twin refuses, a spec is refused for too: nobody has to run crosscheck to hear that a size is nonsense."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.reference.model import build
from tests.files.test_sense import REFUSED
from tests.test_varied_specs import GQA, GROUPS, MLA, ODD_EYES, SECTIONS, assembled, content

BY_NATURE = ("an odd ", "heads of a tower", "groups of one expert", "a scaling without", "a key of another")
"""Cases of REFUSED that the twin can't build either; the others it builds, and what comes out means nothing."""

BASES: dict[str, dict[str, Any]] = {
    "latents": content("mla-choosing/dense mla-sharing/groups", rope_scaling=None),
    "heads": content("gqa-gated/moe gqa-window/groups-v2"),
    "yarn": content(
        "gqa/dense",
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0},
    ),
    "states": content("delta/dense kda/latent"),
    "a tower": content("gqa/dense", vision=ODD_EYES),
}
EDITS = 24
"""Edits of each base, drawn with a fixed seed; the twin takes some hundredths of a second to build."""


def with_section(layer: str, name: str, section: dict[str, Any]) -> dict[str, Any]:
    attention, ffn = layer.split("/")
    return assembled([{"count": 1, "attention": attention, "ffn": ffn}], SECTIONS | {name: section})


@pytest.mark.parametrize("sort", [sort for sort in REFUSED if sort.startswith(BY_NATURE)])
def test_what_validation_refuses_of_these_the_twin_refuses(sort: str) -> None:
    with pytest.raises(InputError):
        build(REFUSED[sort][0])


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        (with_section("odd/dense", "odd", GQA | {"head_dim": 5}), "in pairs, and 5 of a head is odd"),
        (with_section("odd/dense", "odd", MLA | {"qk_rope_head_dim": 3}), "in pairs, and 3 of a head is odd"),
        (content("gqa/dense", vision={"vt_num_attention_heads": 4}), "in fours"),  # 24 / 4 = 6 features a head
        (with_section("gqa/one", "one", GROUPS | {"n_group": 8}), "two best experts"),
    ],
)
def test_what_no_model_can_run_both_refuse(plain: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(plain)
    with pytest.raises(ValidationError):
        Spec.model_validate(plain)


@pytest.mark.parametrize("base", BASES)
def test_every_edit_that_is_valid_is_one_that_the_twin_builds(base: str) -> None:
    chance, built = random.Random(base), 0
    sizes = list(_sizes(BASES[base], ()))
    for _ in range(EDITS):
        path, value = chance.choice(sizes)
        plain = _with(BASES[base], path, chance.choice([value // 2, value + 1, 2 * value, 1]))
        try:
            plain = Spec.model_validate(plain).model_dump()
        except ValidationError:
            continue
        build(plain)
        built += 1
    assert built >= EDITS // 4  # refusing everything is no answer


def _sizes(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], int]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from _sizes(value, (*path, key))
        elif type(value) is int and key not in ("count", "num_hidden_layers"):
            yield (*path, key), value


def _with(plain: dict[str, Any], path: tuple[Any, ...], value: int) -> dict[str, Any]:
    edited = deepcopy(plain)
    inside: Any = edited
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return edited
