"""Finding, reading and validating specs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_names, find, load_located, load_spec, parse
from archcalc.files.model import Spec
from tests.support import BUNDLED, TINY, data, dumped, spec_of, text


def problems(content: str) -> list[Any]:
    with pytest.raises(SpecError) as caught:
        parse(content, "s.yaml", Spec)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_spec_loads_and_is_named_like_its_file(name: str) -> None:
    assert load_spec(name).name == name


def test_the_promised_specs_are_bundled() -> None:
    assert {"k25", "kimi-k2", "deepseek-v3", "llama-3.1-70b"} <= set(bundled_names())


@pytest.mark.parametrize("name", BUNDLED)
def test_each_section_of_a_bundled_spec_names_its_source(name: str) -> None:
    spec = load_spec(name)
    sections = [key for key in ("backbone", "vision", "projector", "storage") if getattr(spec, key) is not None]
    assert set(sections) <= set(spec.sources)


def test_a_path_is_taken_as_it_is_and_a_name_is_looked_up(tmp_path: Path) -> None:
    assert find("some/where.yaml") == Path("some/where.yaml")
    assert find("k25").name == "k25.yaml"
    assert find("h100", "hardware").parent.name == "hardware"


def test_a_near_miss_of_a_name_is_the_hint() -> None:
    with pytest.raises(InputError) as caught:
        find("deepseek_v3")
    assert caught.value.hint == "did you mean deepseek-v3?"


def test_a_document_knows_where_each_part_stands() -> None:
    _, document = load_located("k25")
    line = text("k25").split("\n").index("  hidden_size: 7168") + 1
    assert document.position(("backbone", "hidden_size")) == (line, 16)


@given(st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_a_spec_is_the_same_whatever_the_order_and_style_of_its_keys(random: Any) -> None:
    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            keys = list(node)
            random.shuffle(keys)
            return {key: shuffled(node[key]) for key in keys}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    assert parse(dumped(shuffled(data("k25"))), "s.yaml", Spec) == load_spec("k25")


def test_dumping_and_loading_gives_the_same_spec() -> None:
    spec = load_spec("k25")
    assert spec_of(spec.model_dump()) == spec


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_spec("k25").name = "other"


def test_a_file_of_another_kind_is_one_problem_and_not_one_for_each_key() -> None:
    (problem,) = problems("kind: hardware\nname: h100\nmemory: 80GB\n")
    assert problem.message == "this file is of kind hardware; one of kind spec is wanted here"
    assert problem.hint == "archcalc serve SPEC --gpu s.yaml takes it"
    assert (problem.line, problem.column) == (1, 7)


def missing_in(path: tuple[str, ...], extra: str) -> Any:
    """The problem of an unknown key in the section at a path."""
    content = copy.deepcopy(TINY)
    node: Any = content
    for key in path:
        node = node[key]
    node[extra] = 1
    (problem,) = problems(dumped(content))
    assert problem.message == f"unknown key `{extra}`"
    return problem.hint


@pytest.mark.parametrize(
    ("path", "extra", "hint"),
    [
        ((), "visoin", "did you mean vision?"),
        ((), "claim", "did you mean claims?"),
        (
            ("backbone",),
            "head_dim",
            "keys that it might have: attn_res_block_size, embedding_norm, layer_norm_eps, lm_head_bias",
        ),
        (("backbone", "attention", "gqa"), "q_lora_rank", "known keys: attention_bias, attention_out_bias, head_dim"),
        (("backbone", "ffn", "dense"), "width", "known keys: gated, hidden_act, intermediate_size, kind, mlp_bias"),
        (("storage", "default"), "scale", "known keys: dtype, scheme"),
    ],
)
def test_an_unknown_key_is_answered_with_the_near_miss_or_the_keys_there_are(
    path: tuple[str, ...], extra: str, hint: str
) -> None:
    assert (missing_in(path, extra) or "").startswith(hint)


def test_fields_that_do_not_fit_are_named_with_both_places() -> None:
    content = copy.deepcopy(TINY)
    content["backbone"]["num_hidden_layers"] = 4
    (problem,) = problems(dumped(content))
    assert problem.message == "the layer patterns add up to 3 layers, num_hidden_layers says 4"
    lines = dumped(content).split("\n")
    assert lines[problem.line - 1] == "  layers:"
    assert lines[problem.related[0].line - 1] == "  num_hidden_layers: 4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads 5 is no multiple of num_key_value_heads 2"),
        ({"head_dim": None}, "head_dim must be an integer, not null"),
        ({"qk_norm": "some"}, "qk_norm"),
    ],
)
def test_attention_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    content = copy.deepcopy(TINY)
    content["backbone"]["attention"]["gqa"] |= changes
    (problem,) = problems(dumped(content))
    assert message in problem.message


def test_a_tower_needs_a_projector_and_a_projector_a_tower() -> None:
    for have, lack in (("vision", "projector"), ("projector", "vision")):
        content = data("k25")
        del content[lack]
        (problem,) = problems(dumped(content))
        assert problem.message.startswith(f"{have} without {lack}")
