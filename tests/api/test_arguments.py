"""Nonsense is an InputError that names the parameter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import archcalc
from archcalc.cli import main
from tests.support import TINY, run, tiny


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("kv", {"context": True}, "context: true is not a number of tokens"),
        ("kv", {"context": -5}, "context: -5 is not a number of tokens: it is negative"),
        ("kv", {"context": "-5"}, 'context: a number of tokens can\'t be negative: "-5"'),
        ("kv", {"context": 1.5}, "context: 1.5 is not a number of tokens"),
        ("kv", {"context": "much"}, 'context: "much" is not a number of tokens'),
        ("kv", {"context": b"4k"}, "context: a bytes is not a number of tokens"),
        ("flops", {"lengths": b"4k"}, "lengths: a bytes is not a number of tokens"),
        ("kv", {"context": int}, "context: a type is not a number of tokens"),  # it has __index__, for its own
        ("kv", {"context": 10**5000}, "context: a huge integer is not in range"),
        ("kv", {"batch": 10**64}, "batch: 1000000"),
        ("kv", {"context": 0}, "context must be at least 1, not 0"),
        ("kv", {"batch": 0}, "batch: 0 is not in range: at least 1"),
        ("kv", {"batch": "2"}, 'batch: "2" is not a whole number'),
        ("kv", {"batch": False}, "batch: false is not a whole number"),
        ("kv", {"tp": 10**9}, "tp: 1000000000 is not in range: from 1 to 1,000,000"),
        ("kv", {"tp": [8]}, "tp: a list is not a whole number"),
        ("kv", {"memory": "80G"}, 'memory: "80G" is not a memory size'),
        ("kv", {"memory": 80}, 'memory: "80" is only 80 bytes'),
        ("kv", {"memory": -(80 << 30)}, "memory: -85899345920 is not a memory size: it is negative"),
        ("kv", {"memory": 80e9}, "memory: 80000000000.0 is not a memory size"),
        ("kv", {"kv_dtype": 8}, "kv_dtype: 8 is not text"),
        ("kv", {"image": 1024}, "image: 1024 is not a size"),
        ("kv", {"image": (0, 10)}, "image: 0 is not in range: from 1 to 9,999,999"),
        ("kv", {"image": [(10, 10, 10)]}, "image: a list is not a size"),
        ("kv", {"video": "9x9"}, 'video: "9x9" is no size'),
        ("params", {"depth": 0}, "depth: 0 is not in range: at least 1"),
        ("params", {"top": 2.0}, "top: 2.0 is not a whole number"),
        ("params", {"by": "size"}, "size"),
        ("params", {"explain": 3}, "explain: 3 is not text"),
        ("flops", {"phase": "training"}, 'phase: "training" is not one of train, prefill, decode'),
        ("flops", {"phase": ["train"]}, "phase: a list is not one of"),
        ("flops", {"logits": None, "attention": "ful"}, 'attention: "ful" is not one of causal, full'),
        ("flops", {"tokens": 1.5}, "tokens: 1.5 is not a count"),
        ("flops", {"tokens": float("nan")}, "tokens: .nan is not a count"),
        ("flops", {"tokens": -1}, "tokens: -1 is not a count: it is negative"),
        ("weights", {"as_": "bf61"}, "bf61"),
        ("weights", {"as_": 16}, "as: 16 is not text"),
        ("serve", {"gpu": 7}, "gpu: 7 is not a path or a name"),
        ("serve", {}, "no GPU is named"),
        ("serve", {"gpu": "h2000"}, 'no file and no bundled GPU is named "h2000"'),
        ("serve", {"gpu": "h200", "gpus": "many"}, 'gpus "many" is neither a whole number nor auto'),
        ("serve", {"gpu": "h200", "gpus": 2.0}, "gpus: 2.0 is not a whole number"),
        ("serve", {"gpu": "h200", "gpus": -1}, "gpus: -1 is not in range: from 1 to 999,999,999"),
        ("serve", {"gpu": "h200", "ep": "some"}, 'ep "some" is neither a whole number nor all'),
        ("serve", {"gpu": "h200", "eager": 1}, "eager: 1 is not True or False"),
        ("serve", {"gpu": "h200", "utilization": "0.9"}, 'utilization: "0.9" is not a number'),
        ("serve", {"gpu": "h200", "utilization": 10**400}, "utilization: a huge integer is not in range"),
        ("serve", {"gpu": "h200", "utilization": float("inf")}, "utilization: .inf is not a number"),
        ("serve", {"gpu": "h200", "lora_rank": -1}, "lora_rank: -1 is not in range: from 0 to 65,536"),
        ("serve", {"gpu": "h200", "price": {"h200": "2"}}, 'price: "2" is not a number'),
        ("serve", {"gpu": "h200", "price": {"h200": True}}, "price: true is not a number"),
        ("serve", {"gpu": "h200", "price": "h200"}, "names no price"),
        ("serve", {"gpu": "h200", "sampler": "jax"}, 'sampler: "jax" is not one of torch, flashinfer'),
        ("serve", {"gpu": "h200", "draft": TINY}, "draft: a mapping is not a path or a name"),
        ("train", {"plan": None}, "plan: null is not a path or a name"),
        ("train", {"plan": "k2-pretrian"}, "k2-pretrian"),
        ("train", {"plan": "k2-pretrain", "set": {"parallel.pq": 8}}, "names no field of a plan: parallel.pq"),
        ("train", {"plan": "k2-pretrain", "set": {"parallel.pp": {1}}}, "set: a set is not a value of a plan"),
        ("train", {"plan": "k2-pretrain", "set": {"parallel.pp": int}}, "set: a type is not a value of a plan"),
        ("train", {"plan": "k2-pretrain", "set": {3: 4}}, "set: 3 is not text"),
        ("train", {"plan": "k2-pretrain", "set": [8]}, "set: 8 is not text"),
        ("train", {"plan": "k2-pretrain", "rank": 99}, "there is no pipeline rank 99"),
        ("train", {"plan": "k2-pretrain", "rank": "0"}, 'rank: "0" is not a whole number'),
        ("crosscheck", {"against": "jax"}, "jax"),
        ("crosscheck", {"only": [3]}, "only: 3 is not text"),
    ],
)
def test_an_argument_that_can_not_be_used_says_which(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(archcalc.InputError) as caught:
        getattr(archcalc, name)("k25", **arguments)
    assert says in str(caught.value)
    assert caught.value.render().replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("nonsense", "k25"), {}, 'kind: "nonsense" is not one of memory, kv, flops, train'),
        ((3, "k25"), {}, "kind: 3 is not one of"),
        (("kv",), {}, "specs: no spec is named"),
        (("kv", "k25"), {"context": "4k"}, 'context: --context "4k" is no range'),
        (("kv", "k25"), {"context": 4096}, "context: 4096 is not a range"),
        (("kv", "k25"), {"context": (4096, 16)}, "runs backwards"),
        (("kv", "k25"), {"batch": "a"}, "batch"),
        (("kv", "k25"), {"batch": [1, 0]}, "batch: 0 is not in range"),
        (("kv", "k25"), {"batch": b"18"}, "batch: a bytes is not a whole number"),
        (("kv", "k25"), {"batch": []}, "batch: a list is not of use: it is empty"),
        (("kv", "k25"), {"kv_dtype": ()}, "kv_dtype: a list is not of use: it is empty"),
        (("kv", "k25"), {"gpu": "h200"}, "gpu: plot kv does not look at it"),
        (("flops", "k25"), {"tp": 2}, "tp: plot flops does not look at it"),
        (("train", "k25"), {}, "plan: no plan is named"),
        (("memory", "k25"), {"plan": "k2-pretrain", "tp": 4}, "does not look at tp"),
        (("memory", "k25"), {"set": {"parallel.pp": 8}}, "set overrides a field of a plan"),
        (("memory", "k25"), {"gpu": "all"}, "all are too many"),
    ],
)
def test_a_plot_that_can_not_be_drawn_says_why(arguments: tuple[Any, ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(archcalc.InputError) as caught:
        archcalc.plot(*arguments, **options)
    assert says in str(caught.value)


def test_a_default_may_be_given_where_a_plot_does_not_look_at_it() -> None:
    assert archcalc.plot("kv", "k25", as_="released", lora_rank=0, eager=False).title.startswith("Kimi K2.5")


@pytest.mark.parametrize("spec", [3, None, ["k25"], b"k25", 1.5], ids=repr)
def test_what_is_no_spec_is_refused(spec: Any) -> None:
    for function in (archcalc.load, archcalc.params, archcalc.crosscheck):
        with pytest.raises(archcalc.InputError, match="is no spec"):
            function(spec)
    with pytest.raises(archcalc.InputError, match=r"base: .* is not a path or a name"):
        archcalc.diff(spec, "k25")
    with pytest.raises(archcalc.InputError, match="is no config"):
        archcalc.import_config(spec)


def test_a_name_that_is_not_there_has_the_hint_of_the_command_line() -> None:
    with pytest.raises(archcalc.InputError) as caught:
        archcalc.params("k52")
    assert f"{caught.value.render()}\n" == run("params", "k52").err


def test_an_invalid_file_is_a_spec_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: spec\nname: 3\n")
    with pytest.raises(archcalc.SpecError) as caught:
        archcalc.load(tmp_path / "bad.yaml")
    places = [(problem.source, problem.line, problem.column) for problem in caught.value.problems]
    assert (str(tmp_path / "bad.yaml"), 2, 7) in places


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (tiny(hidden_size=-4), "spec.backbone.hidden_size: hidden_size must be greater than 0"),
        (tiny(hiden_size=4), "spec.backbone.hiden_size: unknown key"),
        (tiny(hidden_size={1, 2}), "spec: this is no plain data: a set is in it"),
        (tiny(rms_norm_eps=float("nan")), "spec: this is no plain data"),
        ({}, "spec: missing keys"),
        ({"kind": "plan"}, "spec.kind: this file is of kind plan"),
    ],
)
def test_plain_data_that_is_no_spec_says_where(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(archcalc.InputError) as caught:
        archcalc.kv(spec)
    assert str(caught.value).startswith(says)


def test_data_that_holds_itself_is_refused() -> None:
    spec = tiny()
    spec["sources"] = spec
    with pytest.raises(archcalc.InputError, match="no plain data"):
        archcalc.load(spec)


def test_a_config_that_is_not_read_names_its_key() -> None:
    with pytest.raises(archcalc.InputError, match="model_type"):
        archcalc.load({"model_type": "nonsense"})


def test_errors_are_one_tree_and_never_an_exit() -> None:
    assert issubclass(archcalc.SpecError, archcalc.InputError)
    assert issubclass(archcalc.InputError, archcalc.ArchcalcError)
    assert issubclass(archcalc.InputError, ValueError)
    assert main(["params", "k52"]) == 2  # the same error, told and counted by the command line


def test_whole_numbers_of_other_libraries_are_whole_numbers() -> None:
    class Integer:
        """What NumPy's integers have."""

        def __index__(self) -> int:
            return 4096

    given: Any = Integer()
    assert archcalc.kv("k25", context=given).inputs["context"] == 4096
    assert archcalc.flops("k25", tokens=given, phase="train").inputs["tokens"] == 4096
    assert archcalc.load(tiny(hidden_size=given)).backbone.hidden_size == 4096
    plan = archcalc.train("k25", plan="k2-pretrain", set={"batch.seq": given})
    assert plan.inputs["set"] == ["batch.seq=4096"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8, "8"),
        (True, "true"),
        (0.5, "0.5"),
        ("muon", "muon"),
        ("zb-h1", '"zb-h1"'),
        ("true", '"true"'),
        ("null", '"null"'),
        ([], "[]"),
        (["mlp", 3], '["mlp", 3]'),
        ({"size": "896x896"}, '{"size": "896x896"}'),
        (None, "null"),
    ],
    ids=repr,
)
def test_a_field_is_set_as_the_command_line_would_write_it(value: Any, text: str) -> None:
    from archcalc.api.arguments import overrides
    from archcalc.files.yaml_loader import load

    assert overrides({"a.b": value}) == [f"a.b={text}"]
    assert load(f"value: {text}", "here").data["value"] == value
