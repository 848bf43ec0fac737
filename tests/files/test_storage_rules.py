"""Storage as an ordered list of rules: what each is for, how weights divide by layers, what is refused and where."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.calc.weights import stored_rows
from archcalc.documents.paths import weight_where
from archcalc.documents.weights import storage_named, weights
from archcalc.errors import InputError, SpecError
from archcalc.files.loader import load_spec, parse
from archcalc.files.matching import check_bounded, pattern
from archcalc.files.model import Spec
from archcalc.files.schema import schema_text
from archcalc.files.storage import Fp8Block, PackQuantized, Plain, Release, Rule, Storage, release, second_copies
from archcalc.tape import Dim, Weight
from archcalc.workload import Workload
from tests.support import BUNDLED, data, dumped, spec_of, tiny

BF16 = {"scheme": "plain", "dtype": "bfloat16"}
FP32 = {"scheme": "plain", "dtype": "float32"}
FP8 = {"scheme": "fp8-block", "block_size": [4, 4], "scale_dtype": "float32"}
INT4 = {"scheme": "pack-quantized", "num_bits": 4, "group_size": 8, "scale_dtype": "bfloat16"}


def listed(*rules: tuple[str, dict[str, Any]], **backbone: Any) -> Spec:
    """The tiny model, layer 0 dense and 1-2 with six experts, stored by these rules; bf16 is the default."""
    entries = [{"match": match, "store": dict(store)} for match, store in (*rules, ("default", BF16))]
    return spec_of({**tiny(**backbone), "storage": entries})


def with_wide_experts(*rules: tuple[str, dict[str, Any]]) -> Spec:
    """The same with experts of width 16, so that all inputs divide into groups of 8."""
    ffn = tiny()["backbone"]["ffn"]
    return listed(*rules, ffn={**ffn, "moe": {**ffn["moe"], "moe_intermediate_size": 16}})


def stored(spec: Spec) -> dict[str, list[tuple[str, str, int]]]:
    """By folded path: the tensors of one matrix (suffix, dtype) with the bytes of all copies."""
    tape = spec.trace(Workload())
    rows = stored_rows(tape, release(spec.storage), second_copies(spec.storage, tape))
    return {
        weight_where(r.weight)["path"]: [(t.suffix, t.dtype, r.weight.copies * t.nbytes) for t in r.tensors]
        for r in rows
    }


def bytes_of(spec: Spec, piece: str) -> dict[str, int]:
    """Bytes by folded path, of the paths that hold a piece."""
    return {path: sum(n for *_, n in tensors) for path, tensors in stored(spec).items() if piece in path}


def total(spec: Spec) -> Any:
    return weights(spec).quantities["weights.bytes"]


def dtypes(spec: Spec, piece: str) -> set[str]:
    return {dtype for path, tensors in stored(spec).items() if piece in path for _, dtype, _ in tensors}


# ------------------------------------------------------------------------------------------- bytes by hand


def test_layer_0_stays_plain_where_a_rule_above_the_role_says_so() -> None:
    spec = listed(("model.layers.0.*", BF16), ("attention", FP8))
    # q 12x8, k and v 6x8, o 8x12: 288 elements. Plain: 2 B each. In blocks of 4x4: 1 B each and a scale of 4 B for
    # 3x2 + 2x2 + 2x2 + 2x3 = 20 blocks. The first layer plain, the two others quantized.
    first, others = 2 * 288, 2 * (288 + 4 * 20)
    attention = bytes_of(spec, "self_attn")
    assert sum(n for path, n in attention.items() if ".0." in path) == first
    assert sum(attention.values()) == first + others
    # All else in bf16: embedding and head 256 each, seven norms of 8, a dense layer of 3x8x20, two layers with router
    # 6x8, its bias 6, experts 6x3x8x5, a shared expert 3x8x5.
    rest = 2 * (2 * 256 + 7 * 8 + 480 + 2 * (48 + 6 + 720 + 120))
    assert total(spec) == first + others + rest


def test_experts_are_packed_in_every_layer_but_one() -> None:
    spec = with_wide_experts(("*.layers.2.mlp.experts.*", BF16), ("routed_expert", INT4))
    # A matrix has 8 x 16 = 128 elements. Packed: 64 B, 16 groups of 8 with 2 B each, two int32 of shape.
    packed, plain = 64 + 32 + 8, 256
    names = ("gate_proj", "up_proj", "down_proj")
    assert bytes_of(spec, ".experts.") == {
        f"model.layers.{layer}.mlp.experts.0-5.{name}.weight": 6 * nbytes
        for name in names
        for layer, nbytes in ((1, packed), (2, plain))
    }


def test_a_weight_has_one_row_for_each_way_that_its_layers_are_stored() -> None:
    spec = listed(("*.layers.1.self_attn.q_proj", FP32), num_hidden_layers=5, layers=[moe(5)], ffn=only("moe"))
    # 12 x 8 elements: one layer of 4 B each, four of 2 B.
    assert bytes_of(spec, "q_proj") == {
        "model.layers.0,2-4.self_attn.q_proj.weight": 4 * 96 * 2,
        "model.layers.1.self_attn.q_proj.weight": 96 * 4,
    }


def moe(count: int) -> dict[str, Any]:
    return {"count": count, "attention": "gqa", "ffn": "moe"}


def only(name: str) -> dict[str, Any]:
    return {name: tiny()["backbone"]["ffn"][name]}


def test_roles_of_the_report_add_up_over_divided_weights() -> None:
    report = weights(with_wide_experts(("*.layers.2.mlp.experts.*", BF16), ("routed_expert", INT4)))
    (by_role,) = (table for table in report.tables if table.name == "by_role")
    (experts,) = (row for row in by_role.rows if row["role"] == "routed_expert")
    assert experts["bytes"] == 18 * (104 + 256)  # as above: 18 matrices in each of the two layers
    assert experts["elements"] == 2 * 18 * 128
    assert experts["stored"] == "int32 + bfloat16 + int32, bfloat16"
    assert report.rows is not None
    assert sum(row["bytes"] for row in report.rows.rows) == report.quantities["weights.bytes"]


# ------------------------------------------------------------------------------------------- what a rule is for


def test_the_first_rule_that_matches_wins() -> None:
    narrow, wide = ("*.q_proj", FP32), ("*.self_attn.*", FP8)
    assert dtypes(listed(narrow, wide), "q_proj") == {"float32"}
    assert dtypes(listed(narrow, wide), "k_proj") == {"float8_e4m3fn", "float32"}  # values and scales
    with pytest.raises(ValueError, match=r"no weight is left for \*\.q_proj"):
        listed(wide, narrow)


@pytest.mark.parametrize("match", ["*.o_proj", "*.o_proj.weight", "re:.*o_proj$", "re:.*\\.o_proj", "*.[o]_pro?"])
def test_a_pattern_may_leave_out_the_parameters_own_name(match: str) -> None:
    spec = listed((match, FP32))
    assert dtypes(spec, "o_proj") == {"float32"}
    assert total(spec) - total(listed()) == 3 * 8 * 12 * 2  # two bytes more for each element of three layers


def test_a_regular_expression_is_matched_from_the_first_character_on_and_need_not_reach_the_last() -> None:
    # compressed-tensors, utils/match.py: re.match(target.removeprefix("re:"), name)
    assert dtypes(listed(("re:model\\.layers\\.[12]", FP32)), "layers.1-2") == {"float32"}
    assert dtypes(listed(("re:model\\.layers\\.[12]", FP32)), "layers.0") == {"bfloat16"}
    with pytest.raises(ValueError, match="no weight matches re:layers"):
        listed(("re:layers", FP32))


@pytest.mark.parametrize("match", ["*.O_proj", "*.o_pro", "o_proj.*"])
def test_a_glob_covers_the_whole_path_in_its_own_case(match: str) -> None:
    with pytest.raises(ValueError, match="no weight matches"):
        listed((match, FP32))


def test_a_path_without_a_dot_is_matched_with_its_parameter_or_as_an_expression() -> None:
    for match in ("lm_head.*", "lm_head.weight", "re:lm_head"):
        assert dtypes(listed((match, FP32)), "lm_head") == {"float32"}


def weight(path: str, suffix: str, *, matrix: bool = True) -> Weight:
    into = (Dim("in", 8),) if matrix else ()
    return Weight(
        path, suffix, (Dim("out", 8),), into, role="attention", part="backbone", dtype="bfloat16", indices=(0, 1)
    )


def scheme(*rules: tuple[str, Plain | Fp8Block | PackQuantized]) -> Release:
    return Release(rules=(*rules, ("default", Plain(scheme="plain", dtype="bfloat16"))))


def test_a_parameter_of_a_module_and_one_without_a_name_of_its_own_are_found_by_path() -> None:
    wide = Plain(scheme="plain", dtype="float32")
    sinks = weight("model.layers.{i}.self_attn", "sinks", matrix=False)
    bare = weight("model.layers.{i}.mixer.A_log", "", matrix=False)
    for match, w in (("*.1.self_attn.sinks", sinks), ("*.1.self_attn", sinks), ("*.1.mixer.A_log", bare)):
        assert [part.indices for part in scheme((match, wide)).split([w])] == [(0,), (1,)]
    assert scheme(("*.0.mixer.A_log.*", wide)).split([bare]) == [bare]


def test_only_matrices_are_quantized_so_a_norm_is_neither_quantized_nor_divided() -> None:
    spec = listed(("*.layers.1.*", FP8))
    assert stored(spec)["model.layers.1-2.input_layernorm.weight"] == [("weight", "bfloat16", 2 * 8 * 2)]
    assert dtypes(spec, "layers.1.self_attn.q_proj") == {"float8_e4m3fn", "float32"}


def test_weights_keep_their_order_and_those_that_are_stored_alike_are_not_copied() -> None:
    tape = listed().trace(Workload())
    weights = tape.weights()
    divided = scheme(("*.2.self_attn.k_proj", Plain(scheme="plain", dtype="float32"))).split(weights)
    k_proj = next(n for n, w in enumerate(weights) if w.path.endswith("k_proj") and len(w.indices) == 2)
    assert [w.indices for w in divided[k_proj : k_proj + 2]] == [(1,), (2,)]
    untouched = [*divided[:k_proj], *divided[k_proj + 2 :]]
    assert all(a is b for a, b in zip(untouched, [*weights[:k_proj], *weights[k_proj + 1 :]], strict=True))


def test_layers_that_two_rules_store_alike_stay_together() -> None:
    rules = [(match, Plain(scheme="plain", dtype="float32")) for match in ("*.0.*", "*.1.*")]
    w = weight("model.layers.{i}.self_attn.q_proj", "weight")
    assert scheme(*rules).split([w]) == [w]


def test_a_weight_that_should_have_been_divided_is_a_bug_and_no_wrong_number() -> None:
    w = weight("model.layers.{i}.self_attn.q_proj", "weight")
    with pytest.raises(AssertionError, match="stored in several ways and was not split"):
        scheme(("*.0.*", Plain(scheme="plain", dtype="float32")))(w)


# ---------------------------------------------------------------------------------- multi-token prediction


def test_role_rules_of_a_prediction_module_are_those_of_a_mapping() -> None:
    spec = listed(("mtp_head", FP32), ("mtp", FP32), ("attention", FP8), num_nextn_predict_layers=1)
    rows = stored(spec)
    assert "model.layers.3.embed_tokens.weight" not in rows  # no rule says that the embedding is stored again
    assert rows["model.layers.3.shared_head.head.weight"] == [("weight", "float32", 32 * 8 * 4)]
    assert {dtype for path, ts in rows.items() if ".layers.3." in path for _, dtype, _ in ts} == {"float32"}
    assert rows["lm_head.weight"] == [("weight", "bfloat16", 32 * 8 * 2)]


def test_a_rule_for_prediction_modules_takes_what_the_rules_above_it_leave() -> None:
    spec = listed(("attention", FP8), ("mtp", FP32), num_nextn_predict_layers=1)
    assert dtypes(spec, "layers.3.self_attn.q_proj") == {"float8_e4m3fn", "float32"}
    assert dtypes(spec, "layers.3.eh_proj") == {"float32"}


def test_in_a_mapping_the_key_of_prediction_modules_goes_before_their_roles() -> None:
    content = {**tiny(num_nextn_predict_layers=1), "storage": {"default": BF16, "attention": FP8, "mtp": FP32}}
    assert dtypes(spec_of(content), "layers.3.") == {"float32"}
    assert dtypes(spec_of(content), "layers.0.self_attn") == {"float8_e4m3fn", "float32"}


def test_a_path_rule_reaches_the_second_copies_of_embedding_and_head() -> None:
    rules = ("*.layers.3.embed_tokens", FP32), ("mtp_embedding", BF16), ("mtp_head", BF16)
    rows = stored(listed(*rules, num_nextn_predict_layers=1))
    assert rows["model.layers.3.embed_tokens.weight"] == [("weight", "float32", 32 * 8 * 4)]
    assert rows["model.layers.3.shared_head.head.weight"] == [("weight", "bfloat16", 32 * 8 * 2)]


# ------------------------------------------------------------------------------------ the same as a mapping


@cache
def mapped(name: str) -> Spec:
    return load_spec(name)


MAPPINGS = [name for name in BUNDLED if isinstance(data(name)["storage"], dict)]


@given(st.sampled_from(MAPPINGS), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_a_mapping_written_as_rules_in_any_order_gives_the_same_rows(name: str, random: Any) -> None:
    content = data(name)
    default = content["storage"].pop("default")
    entries = [{"match": role, "store": store} for role, store in content["storage"].items()]
    random.shuffle(entries)
    content["storage"] = [*entries, {"match": "default", "store": default}]
    rules = spec_of(content)
    assert stored(rules) == stored(mapped(name))
    for other in ("released", "bf16", "fp8"):
        ours, theirs = (weights(spec, as_=other) for spec in (rules, mapped(name)))
        assert (ours.quantities, ours.rows, ours.notes) == (theirs.quantities, theirs.rows, theirs.notes)


def test_rules_are_dumped_and_read_again_as_they_are() -> None:
    spec = listed(("*.o_proj", FP32), ("norm", BF16))
    assert spec_of(spec.model_dump()) == spec
    assert parse(dumped(spec.model_dump()), "s.yaml", Spec) == spec


def test_a_what_if_keeps_the_routers_bias_as_a_list_of_rules_has_it() -> None:
    plain, wide = Plain(scheme="plain", dtype="bfloat16"), Plain(scheme="plain", dtype="float32")
    for match in ("router_bias", "*.e_score_correction_bias"):
        assert storage_named(listed((match, FP32)), "bf16") == {"default": plain, "router_bias": wide}
    assert storage_named(listed(("*.o_proj", FP32)), "bf16") == {"default": plain, "router_bias": plain}


def test_a_what_if_has_the_routers_bias_in_bf16_where_only_a_default_says_how_it_is_stored() -> None:
    # the same of either form
    for storage in ({"default": FP32}, [{"match": "default", "store": FP32}]):
        spec = spec_of({**tiny(), "storage": storage})
        assert storage_named(spec, "bf16")["router_bias"] == Plain(scheme="plain", dtype="bfloat16")  # type: ignore[call-overload]


# ------------------------------------------------------------------------------------ rules that store nothing


def notes(storage: Storage | None = None, *rules: tuple[str, dict[str, Any]]) -> list[str]:
    spec = listed(*rules) if storage is None else spec_of({**tiny(), "storage": storage})
    return [note for note in weights(spec).notes if "storage rule" in note]


def test_a_role_that_the_model_has_not_is_a_note() -> None:
    assert notes(None, ("vision", FP32), ("norm", FP32)) == ["The storage rule for vision matches no weight."]


def test_a_role_whose_weights_are_all_taken_is_a_note_that_names_a_rule_above() -> None:
    (note,) = notes(None, ("*.self_attn.*", FP32), ("attention", FP8))
    assert note.startswith(
        "The storage rule for attention stores nothing: rules above, such as the one for *.self_attn"
    )


def test_a_mapping_may_name_roles_that_the_model_has_not() -> None:
    content: Any = {"default": BF16, "vision": FP32}
    assert notes(content) == []


def test_a_plain_release_by_roles_needs_no_forward_pass_to_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(*_: object) -> None:
        raise InputError("recorded")

    monkeypatch.setattr("archcalc.files.model._trace", recorded)
    listed(("attention", FP32))
    spec_of(tiny())
    for match, store in (("*.o_proj", FP32), ("attention", FP8)):  # which paths, and which matrices there are
        with pytest.raises(ValueError, match="recorded"):
            listed((match, store))


# --------------------------------------------------------------------------------------- what is refused, and where

DEFAULT = "{match: default, store: {scheme: plain, dtype: bfloat16}}"
STORE = "store: {scheme: plain, dtype: bfloat16}"


def problems(*rules: str, section: str | None = None) -> list[Any]:
    """All that is wrong with a file whose first lines are its storage section: each rule is a line from 2 on."""
    content = tiny()
    del content["storage"]
    head = section or "".join(["storage:\n", *(f"  - {rule}\n" for rule in rules)])
    with pytest.raises(SpecError) as caught:
        parse(head + dumped(content), "s.yaml", Spec)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("rule", "column", "message", "hint"),
    [
        # "  - {match: " takes 12 columns, "  - {match: norm, " 18, "  - {match: norm, store: " 25
        (f"{{match: norm, note: x, {STORE}}}", 19, "unknown key `note`", "known keys: "),
        (f"{{mach: norm, {STORE}}}", 6, "unknown key `mach`", "did you mean match?"),
        ("{match: norm}", 5, "missing key `store` in `storage[0]`", None),
        (f"{{{STORE}}}", 5, "missing key `match` in `storage[0]`", None),
        ("{}", 5, "missing keys `match`, `store` in `storage[0]`", None),
        ("norm", 5, 'storage[0] must be a mapping, not "norm"', "write `key: value` lines"),
        (f"{{match: 3, {STORE}}}", 13, "match must be text, not 3", "put it in quotes"),
        (f"{{match: [norm], {STORE}}}", 13, "match must be text, not a list", None),
        ("{match: norm, store: bf16}", 26, 'store must be a mapping, not "bf16"', "write `key: value` lines"),
        ("{match: norm, store: {dtype: bfloat16}}", 19, "missing key `scheme` in `storage[0].store`", None),
        ("{match: norm, store: {scheme: plan}}", 35, "scheme must be `plain`, `pack-quan", "did you mean plain?"),
        (f"{{match: '', {STORE}}}", 13, "match: the pattern is empty", "`*` matches every path"),
        (f"{{match: 're:', {STORE}}}", 13, "match: the pattern is empty", "`*` matches every path"),
        (f"{{match: 're:.*(', {STORE}}}", 13, "match: not a regular expression: missing )", None),
        (f"{{match: 're:x{{{'9' * 30}}}', {STORE}}}", 13, "match: not a regular expression: ", None),
        (f"{{match: routed_experts, {STORE}}}", 13, "match: no role is named", "did you mean routed_expert? A pattern"),
        (f"{{match: xyz, {STORE}}}", 13, "match: no role is named xyz", "a role is one of default, embedding, "),
        (f"{{match: '*.nope', {STORE}}}", 13, "no weight matches *.nope", "a path is written like model.layers."),
        (f"{{match: layers.0.*, {STORE}}}", 13, "no weight matches layers.0.*", "did you mean *.layers.0.*?"),
        (f"{{match: 're:layers', {STORE}}}", 13, "no weight matches re:layers", "did you mean re:.*layers?"),
        (f"{{match: 're:(?i)layers', {STORE}}}", 13, "no weight matches re:(?i)layers", "a path is written like"),
        (f"{{match: '*.experts.7.*', {STORE}}}", 13, "no weight matches *.experts.7.*", "the experts of a layer are"),
    ],
)
def test_a_rule_that_is_wrong_is_one_problem_at_its_place(
    rule: str, column: int, message: str, hint: str | None
) -> None:
    (problem,) = problems(rule, DEFAULT)
    assert (problem.line, problem.column) == (2, column)
    assert problem.message.startswith(message)
    assert (problem.hint or "").startswith(hint or "")
    assert (problem.hint is None) == (hint is None)


@pytest.mark.parametrize("match", ["*.experts.0.*", "*.experts.5.*", "*.experts.[0235].*", "*.2.mlp.experts.[05].*"])
def test_a_pattern_that_tells_experts_apart_is_refused(match: str) -> None:
    # six experts: those at the ends disagree, or agree and others do not, or so in the second MoE layer alone
    (problem,) = problems(f"{{match: '{match}', store: {{scheme: plain, dtype: float32}}}}", DEFAULT)
    assert (problem.line, problem.column) == (2, 13)
    assert problem.message.startswith(f"{match} matches some of the 6 experts of model.layers.")
    assert problem.message.endswith("they are stored alike")


def test_a_rule_that_rules_above_leave_nothing_to_names_one_of_them() -> None:
    rules = [f"{{match: '{match}', {STORE}}}" for match in ("*.q_proj", "attention", "*.o_proj")]
    (problem,) = problems(*rules, DEFAULT)
    assert (problem.line, problem.column) == (4, 13)
    assert problem.message == "no weight is left for *.o_proj: rules above take all that it matches"
    assert [(place.line, place.column) for place in problem.related] == [(3, 13)]


def test_two_rules_with_the_same_match_are_refused_with_both_places() -> None:
    (problem,) = problems(
        f"{{match: norm, {STORE}}}", f"{{match: head, {STORE}}}", f"{{match: norm, {STORE}}}", DEFAULT
    )
    assert (problem.line, problem.column, problem.message) == (4, 13, "two rules match norm")
    assert [(place.line, place.column) for place in problem.related] == [(2, 13)]


def test_the_default_is_required_last_and_plain() -> None:
    (lacking,) = problems(f"{{match: norm, {STORE}}}")
    assert (lacking.line, lacking.column, lacking.message) == (1, 1, "storage has no default scheme")
    assert lacking.hint == "end it with {match: default, store: {scheme: plain, dtype: ...}}"
    (early,) = problems(DEFAULT, f"{{match: norm, {STORE}}}")
    assert (early.line, early.column) == (2, 13)
    assert early.message.startswith("the default must be the last rule")
    quantized = "{match: default, store: {scheme: fp8-block, block_size: [4, 4], scale_dtype: float32}}"
    (packed,) = problems(f"{{match: norm, {STORE}}}", quantized)
    assert (packed.line, packed.column) == (3, 22)  # "  - {match: default, " takes 21 columns
    assert packed.message.startswith("storage's default must be plain")


@pytest.mark.parametrize(
    ("section", "place", "message", "hint"),
    [
        ("storage: []\n", (1, 1), "storage has no default scheme", "end it with {match: default"),
        ("storage: {}\n", (1, 1), "storage has no default scheme", "add default: {scheme: plain"),
        ("storage: bf16\n", (1, 10), 'storage must be a mapping or a list, not "bf16"', "write `key: value` lines"),
        ("storage:\n  default: {scheme: plain, dtype: bf16}\n", (2, 35), "dtype must be `bfloat16`", "did you mean"),
        (
            "storage:\n  default: {scheme: plain, dtype: float32}\n  routed_experts: {scheme: plain, dtype: float32}\n",
            (3, 3),
            "unknown key `routed_experts`",
            "did you mean routed_expert?",
        ),
    ],
)
def test_a_section_that_is_wrong_is_one_problem_in_either_form(
    section: str, place: tuple[int, int], message: str, hint: str
) -> None:
    (problem,) = problems(section=section)
    assert (problem.line, problem.column) == place
    assert problem.message.startswith(message)
    assert problem.hint.startswith(hint)


def test_the_json_schema_knows_both_forms() -> None:
    validator = jsonschema.Draft7Validator(json.loads(schema_text("spec", {"spec": Spec})))
    rule: dict[str, Any] = {"match": "*.o_proj", "store": BF16}
    for section, valid in (
        ({"default": BF16}, True),
        ([rule, {"match": "default", "store": BF16}], True),
        ([rule | {"note": "x"}], False),
        ([{"match": "norm"}], False),
        ([rule | {"match": ""}], False),
        ([rule | {"store": {"scheme": "plan"}}], False),
        ("bf16", False),
    ):
        assert validator.is_valid({**tiny(), "storage": section}) == valid


def test_a_rule_reads_its_own_pattern() -> None:
    with pytest.raises(ValueError, match="no role is named norms"):
        Rule(match="norms", store=Plain(scheme="plain", dtype="bfloat16"))


@pytest.mark.parametrize(
    "endless",
    [
        "re:(a+)+$",
        "re:(.*.*)*x",
        "re:(m|mo|mod)+!",
        r"re:(.+)x\1",
        "re:" + "a.*b" * 9,
        "re:" + ".?" * 30 + "zz",
        "re:" + "(.|.)" * 20 + "z",
        "re:" + ".*." * 6 + "z",
        r"re:(\w|.)*z",
    ],
)
def test_an_expression_that_could_try_for_ever_is_refused(endless: str) -> None:
    with pytest.raises(InputError, match="could try for ever"):
        check_bounded(endless.removeprefix("re:"))


def test_expressions_of_public_releases_are_taken() -> None:
    # compressed-tensors configs of Kimi K2.5 and of Qwen and Llama releases
    check_bounded(r".*self_attn.*")
    check_bounded(r".*mlp\.(gate|up|gate_up|down)_proj.*")
    check_bounded(r"model\.layers\.\d+\.mlp\.experts\.\d+\..*")
    check_bounded(r"(model\.)?.*layers\.(3|4|5|6|7|8|9)\..*experts.*(gate|up|down|gate_up)_proj.*")


@pytest.mark.parametrize("expression", [".*." * 4 + "z", ".?" * 19 + "z", "(.|.)" * 19 + "z", "(a|b|c|.)" * 9 + "z"])
def test_what_is_taken_is_tried_in_no_time(expression: str) -> None:
    check_bounded(expression)
    start = time.perf_counter()
    assert pattern(f"re:{expression}").match("a" * 60) is None
    assert time.perf_counter() - start < 1


def test_stars_in_a_row_are_one() -> None:
    assert pattern("re:.*.*.*.*.*x9").pattern == ".*x9"
    assert pattern(r"re:\..*.*x").pattern == r"\..*x"
