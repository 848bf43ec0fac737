"""Each rule refuses a plan that breaks it, and that plan alone; what is refused says why and where."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from archcalc.documents.kinds import checked, given
from archcalc.documents.train import train
from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_dir, load_spec
from archcalc.training.legal import RULES, facts_of, illegal
from archcalc.training.load import load_plan
from archcalc.training.memory import training_memory
from archcalc.training.run import compiled
from archcalc.workload import Workload
from tests.support import spec_of, tiny
from tests.training.legal.cases import CASES, DENSE, K2, TENSOR, WINDOWED, Case, base, changed, stack_of
from tests.training.legal.page import PAGE, page
from tests.training.plans import tape_of


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.rule}, {case.stack or 'all'}, {n}" for n, case in enumerate(CASES)]
)
def test_a_plan_that_breaks_a_rule_is_refused_for_that_alone(case: Case) -> None:
    legal = changed(base(), case.base)
    broken, stack = changed(legal, case.breaks), stack_of(case.stack)
    found = illegal(broken, case.model, stack)
    assert [refusal.rule for refusal in found] == [case.rule]
    assert all(refusal.reason and refusal.source for refusal in found)
    if broken != legal:  # else the model makes the difference
        assert illegal(legal, case.model, stack) == ()
    if case.stack is not None:
        assert illegal(broken, case.model) == (), "without the stack nobody refuses it"
        assert found[0].source in found[0].reason


RUN = (
    # torchtitan 0.3: ep divides what shards, 8 devices x cp 16, and need hold no whole groups of 16
    Case("ep within cp", {"parallel.ep": 8, "parallel.cp": 16}, {}, "torchtitan"),
    # its trainer asks for 2 x cp where cp is above 1 alone; 4098 is a multiple of tp 2, not of 4
    Case("seq over tp", {"batch.seq": 4098, "batch.global_tokens": 4098 * 8 * 64}, TENSOR, "torchtitan"),
    # pull request 2495 of Megatron-LM, in core 0.17, took the check out
    Case("experts in fp16", {"precision.params": "fp16", "precision.grads": "fp16"}, {}, "megatron"),
    # Megatron-LM's own etp is tp, of dense models too
    Case("etp of a dense model", {"parallel.etp": 2, "parallel.ep": 1}, TENSOR, "megatron", DENSE),
    Case("windows over a2a", {"parallel.cp": 2, "parallel.cp_comm": "a2a"}, {}, "megatron", WINDOWED),
)


@pytest.mark.parametrize("case", RUN, ids=[case.rule for case in RUN])
def test_what_a_stack_runs_is_legal(case: Case) -> None:
    plan = changed(changed(base(), case.base), case.breaks)
    assert illegal(plan, case.model, stack_of(case.stack)) == ()


def test_every_rule_is_broken_by_a_case() -> None:
    ours = {(case.rule, case.stack) for case in CASES}
    for rule in RULES:
        assert {(rule.name, stack) for stack in rule.stacks or (None,)} & ours, rule


def test_without_a_model_the_rules_that_need_one_are_not_asked() -> None:
    needing = {rule.name for rule in RULES if rule.model}
    for case in CASES:
        found = illegal(changed(changed(base(), case.base), case.breaks), None, stack_of(case.stack))
        assert [refusal.rule for refusal in found] == ([] if case.rule in needing else [case.rule])


def test_what_makes_the_model_illegal_is_legal_for_another() -> None:
    for case in CASES:
        if case.rule in ("fsdp under Megatron-LM, tied", "overlap and prediction", "recompute of MLA"):
            plan = changed(changed(base(), case.base), case.breaks)
            assert illegal(plan, K2, stack_of(case.stack)) == (), case.rule


def test_keys_of_a_refusal_are_keys_of_a_plan() -> None:
    fields = {**base().model_dump(), "fsdp": None, "stack": None}
    for case in CASES:
        for refusal in illegal(changed(changed(base(), case.base), case.breaks), case.model, stack_of(case.stack)):
            for section, *rest in refusal.keys:
                assert section in fields
                assert section == "fsdp" or not rest or rest[0] in fields[section], refusal.keys


def test_the_table_of_the_docs_is_current() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.training.legal.page"


def test_what_is_legal_runs_and_what_is_not_is_refused() -> None:
    """K2 under meshes of 768 GPUs: a legal one raises nothing further down.

    Legal are pp 8 and 16, vpp 1 and 2, tp 1 and 2, ep 16, cp 1 and 2: tp 3 does not divide 64 heads, nor ep 5 the 384
    experts.
    """
    tape = tape_of("kimi-k2", base())
    facts = facts_of(tape)
    assert (facts.layers, facts.experts) == (61, (384, 8))
    legal = 0
    for pp, vpp, tp, ep, cp in product((8, 16), (1, 2), (1, 2, 3), (16, 5), (1, 2)):
        mesh = {"parallel.pp": pp, "parallel.vpp": vpp, "parallel.tp": tp, "parallel.sp": tp > 1, "parallel.ep": ep}
        plan = changed(base(), {**mesh, "parallel.cp": cp, "parallel.world": 768, "batch.global_tokens": 3 << 24})
        if illegal(plan, facts):
            with pytest.raises(InputError):
                compiled(tape, plan)
        else:
            legal += 1
            assert training_memory(compiled(tape, plan))
    assert legal == 2 * 2 * 2 * 1 * 2


FILE = (bundled_dir() / "plans" / "k2-pretrain.yaml").read_text()
FILE = FILE.replace("  offload: all", "  offload: none").replace(", moe_down_proj]", "]")


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = FILE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


STACKED = ("hardware: h800", "stack: megatron-2025\nhardware: h800")


def line_of(path: Path, start: str) -> int:
    return 1 + next(n for n, line in enumerate(path.read_text().splitlines()) if line.startswith(start))


def test_what_a_stack_refuses_stands_at_its_key_with_the_source(tmp_path: Path) -> None:
    path = written(tmp_path, STACKED, ("  zero: 1 ", "  zero: 2 "))
    with pytest.raises(InputError) as error:
        train(load_spec("kimi-k2"), plan=str(path))
    (problem,) = error.value.problems
    assert (problem.source, problem.line) == (str(path), line_of(path, "  zero:"))
    assert "zero 2 with a pipeline" in problem.message
    assert "Megatron-LM core/optimizer/distrib_optimizer.py" in problem.message
    assert [place.line for place in problem.related] == [line_of(path, "  pp:"), line_of(path, "stack:")]
    assert "  zero: 2" in error.value.render()
    assert problem.hint == "set parallel.zero=1, or parallel.pp=1"


def test_validate_says_what_a_plans_stack_refuses(tmp_path: Path) -> None:
    path = written(tmp_path, STACKED, ("  zero: 1 ", "  zero: 3 "))
    with pytest.raises(SpecError, match="zero 3 with a pipeline") as error:
        checked(given(str(path), None))
    assert error.value.line == line_of(path, "  zero:")
    assert checked(given(str(written(tmp_path, STACKED)), None))


def test_several_reasons_are_told_at_once_each_where_it_is_set(tmp_path: Path) -> None:
    path = written(tmp_path, STACKED)
    with pytest.raises(InputError) as error:
        train(load_spec("kimi-k2"), plan=str(path), set=("parallel.zero=2", "activations.offload=[router]"))
    assert [problem.source for problem in error.value.problems] == [
        "--set parallel.zero=2",
        "--set activations.offload=[router]",
    ]


@pytest.mark.parametrize("factor", ["1000", "1e308", "16.01"])
def test_no_device_gets_more_rows_than_there_are(factor: str) -> None:
    with pytest.raises(InputError, match="the busiest of 16 devices gets at most 16 times the mean"):
        load_plan("k2-pretrain", (f"activations.moe_imbalance={factor}",))


def test_one_device_may_get_all_rows() -> None:
    assert load_plan("k2-pretrain", ("activations.moe_imbalance=16",)).activations.moe_imbalance == 16


@pytest.mark.parametrize("share", ["5e-324", "0.0999"])
def test_a_share_of_the_allocator_that_no_run_has_is_refused(share: str) -> None:
    with pytest.raises(InputError, match="allocated over reserved memory is not less than"):
        load_plan("k2-pretrain", (f"memory.allocator_efficiency={share}",))
    assert load_plan("k2-pretrain", ("memory.allocator_efficiency=0.1",)).memory.allocator_efficiency == 0.1


def test_the_matrices_that_may_multiply_in_fp8_are_no_biases() -> None:
    """q, k and v with biases, o, gate and up, down: the matrices' own sizes, each pair once."""
    content = tiny(num_hidden_layers=1, layers=[{"count": 1, "attention": "gqa", "ffn": "dense"}])
    content["backbone"]["attention"]["gqa"]["attention_bias"] = True
    content["backbone"]["ffn"].pop("moe")
    facts = facts_of(spec_of(content).trace(Workload()))
    sizes = [tuple(tuple(d.size for d in dims) for dims in pair) for pair in facts.linears]
    assert sizes == [((4, 3), (8,)), ((2, 3), (8,)), ((8,), (4, 3)), ((20,), (8,)), ((8,), (20,))]
