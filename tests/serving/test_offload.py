"""Experts in the host's memory: which, how many bytes, and what a step reads of them, by hand."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.serving.deployment import Deployment, loaded_weights
from archcalc.serving.memory import serve
from archcalc.serving.offload import Host, offloaded
from archcalc.serving.overhead import Load
from tests.serving.deployed import engine, gpu, held, held_by, model, served
from tests.support import spec_of, tiny

# gate, up and down of 2048 x 7168 in 4 bits, a bf16 scale for 32 of them, and a shape of 8 B each
EXPERT = 3 * (2048 * 7168 // 2 + 2048 * 7168 // 32 * 2 + 8)
"""One expert of k25 [bytes]: 60 of its 61 layers have 384 of them, and 8 for each token."""


def host(of: Spec | str = "k25", layers: int | None = None, batch: int = 1) -> Host:
    found = model(of)
    return offloaded(
        loaded_weights(found.tape, found.scheme), found.scheme, Load(context=1, offloaded=layers, batch=batch)
    )


# ------------------------------------------------------------------------------------------------ which layers


def test_the_first_layers_that_have_experts_stay_on_the_host() -> None:
    # layer 0 of k25 is dense; llama.cpp's --n-cpu-moe counts layers, and this counts those with experts
    assert host(layers=2).layers == {1, 2}
    assert host(layers=60).layers == host(layers=None).layers == set(range(1, 61))
    # deepseek-v3's first three are dense
    assert host("deepseek-v3", layers=2).layers == {3, 4}


@pytest.mark.parametrize("layers", [1, 2, 60])
def test_so_many_bytes_stay_there(layers: int) -> None:
    found = host(layers=layers)
    assert EXPERT == 24_772_632
    assert found.nbytes == layers * 384 * EXPERT
    assert found.token_bytes == layers * 8 * EXPERT


def test_a_model_that_was_asked_about_another_batch_answers_as_a_new_one() -> None:
    found, where = model("k25"), Deployment(tp=8)
    loads = {n: Load(context=1, offloaded=2, batch=n) for n in (1, 64)}
    seen = {n: serve(found, gpu("h200"), engine(), where, load).host for n, load in loads.items()}
    assert seen == {n: host(layers=2, batch=n) for n in loads}
    assert seen[1] != seen[64]


@pytest.mark.parametrize("where", [{"tp": 8, "ep": 8}, {"dp": 8, "ep": 8}])
def test_devices_hold_what_is_left(where: dict[str, Any]) -> None:
    full = served("k25", load=Load(context=1), **where)
    some = served("k25", load=Load(context=1, offloaded=10), **where)
    none = served("k25", load=Load(context=1, offloaded=None), **where)
    # whole experts: each of eight devices holds 48 of 384
    assert full.host is None
    assert full.weights_bytes - some.weights_bytes == 10 * 48 * EXPERT
    assert full.weights_bytes - none.weights_bytes == 60 * 48 * EXPERT
    assert not any(w.weight.role == "routed_expert" for w in none.devices[0].weights)
    # everything else is where it was, router and shared experts among it
    kept = [w for w in full.devices[0].weights if w.weight.role != "routed_expert"]
    assert [(w.weight.path, w.held) for w in none.devices[0].weights] == [(w.weight.path, w.held) for w in kept]
    assert none.host is not None
    assert none.host.nbytes == 60 * 384 * EXPERT


def test_what_was_asked_before_changes_no_answer() -> None:
    # a search asks one model many times, and what devices hold is worked out once
    one = model("k25")
    loads = [Load(context=1, offloaded=n, language_only=b) for n in (0, 10, None) for b in (True, False)]
    where = Deployment(tp=8, ep=8)
    again = [serve(one, gpu("h200"), engine(), where, load).weights_bytes for load in (*loads, *loads)]
    fresh = [served("k25", load=load, tp=8, ep=8).weights_bytes for load in loads]
    assert again == [*fresh, *fresh]
    assert len(set(fresh)) == 6


def test_the_first_stages_are_relieved_first() -> None:
    # stages of 30 and 31 layers; 29 and 31 of them have experts
    full, some = (served("k25", load=Load(context=1, offloaded=n), pp=2) for n in (0, 35))
    less = [a.weights_bytes - b.weights_bytes for a, b in zip(full.devices, some.devices, strict=True)]
    first = len(full.devices[0].stage) - 1
    assert less == [first * 384 * EXPERT, (35 - first) * 384 * EXPERT]


def test_a_prediction_modules_experts_stay_on_the_device() -> None:
    load = Load(context=1, offloaded=None, mtp=True)
    found = served("deepseek-v3", load=load, tp=8)
    alone = served("deepseek-v3", load=Load(context=1, mtp=True), tp=8)
    assert [t.bounds for t in found.devices[0].terms if t.kind == "mtp"] == [
        t.bounds for t in alone.devices[0].terms if t.kind == "mtp"
    ]
    assert found.host is not None
    assert found.host.layers == set(range(3, 61))


# ------------------------------------------------------------------------------------------ what a step reads


def test_one_token_reads_its_own_experts() -> None:
    found = host(layers=2)
    assert found.step_bytes == found.token_bytes == 2 * 8 * EXPERT


@pytest.mark.parametrize(
    ("batch", "experts"),
    [
        # of 384 experts, 8 a token, a step of B sequences reads 384·(1 - (47/48)^B)
        (2, Fraction(95, 6)),  # 384·95/2304: one sixth of one fewer than 16
        (3, Fraction(384 * (48**3 - 47**3), 48**3)),  # 384·6769/110,592 = 23.5
    ],
)
def test_a_step_of_several_sequences_reads_experts_that_they_share_once(batch: int, experts: Fraction) -> None:
    assert host(layers=2, batch=batch).step_bytes == ceil(2 * EXPERT * experts)


def test_a_step_of_very_many_reads_all_of_them() -> None:
    # (47/48)^4096 is 4e-38: less than one byte of 9.5 GB a layer
    for batch in (4096, 1_000_000):
        found = host(layers=1, batch=batch)
        assert found.step_bytes == found.nbytes


def test_a_small_models_step_by_hand() -> None:
    # 2 layers of 6 experts of three 5 x 8 matrices in bf16, 2 a token: 240 B each; 6·(1 - (4/6)²) = 10/3 of them
    small = spec_of(tiny())
    assert host(small).nbytes == 2 * 6 * 240
    assert host(small).token_bytes == 2 * 2 * 240
    assert host(small, batch=2).step_bytes == 2 * 240 * 10 // 3


def test_a_bandwidth_allows_so_many_tokens_a_second() -> None:
    # one sequence: 2·8·24,772,632 B a token; two read 95/6 experts of a layer for two tokens
    assert host(layers=2).tokens_per_second(100 * 10**9) == Fraction(100 * 10**9, 2 * 8 * EXPERT)
    two = host(layers=2, batch=2)
    assert two.tokens_per_second(100 * 10**9) == Fraction(2 * 100 * 10**9 * 6, 2 * 95 * EXPERT)


@settings(max_examples=40, deadline=None)
@given(layers=st.integers(1, 60), batch=st.integers(1, 5000), more=st.integers(0, 5000))
def test_more_sequences_read_more_but_less_for_each_and_never_more_than_there_is(
    layers: int, batch: int, more: int
) -> None:
    few, many = host(layers=layers, batch=batch), host(layers=layers, batch=batch + more)
    assert few.token_bytes <= few.step_bytes <= many.step_bytes <= many.nbytes
    assert few.step_bytes <= few.token_bytes * batch
    # rounded up to a whole byte
    assert many.step_bytes * batch <= few.step_bytes * (batch + more) + batch


# ------------------------------------------------------------------------------------------------- refused


def test_a_dense_model_has_none_to_keep_there() -> None:
    for layers in (1, None):
        with pytest.raises(InputError, match="no routed experts to keep in the host's memory") as caught:
            served("llama-3.1-70b", load=Load(context=1, offloaded=layers), tp=8)
        assert caught.value.hint == "leave out the option"


def test_more_layers_than_have_experts_are_refused() -> None:
    with pytest.raises(InputError, match="only 60 layers have routed experts, not 61") as caught:
        host(layers=61)
    assert caught.value.value == 61


def test_nothing_is_offloaded_unless_it_is_asked_for() -> None:
    found = served("k25", load=Load(context=1), tp=8, ep=8)
    assert found.host is None
    assert found.weights_bytes == held("k25", tp=8, ep=8)
    assert held_by("k25", "experts.{e}.down_proj", tp=8, ep=8) == 60 * 48 * EXPERT // 3
