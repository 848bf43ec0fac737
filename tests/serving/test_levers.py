"""What would make a load fit: each lever is what asking with its flags gives, and none stands where none is needed."""

from __future__ import annotations

import shlex
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from archcalc.hardware import Hardware, hardware_names, load_hardware
from archcalc.serving.levers import Lever, levers
from archcalc.serving.memory import Serving
from archcalc.serving.overhead import Load
from archcalc.serving.search import Question, Spread
from tests.serving.deployed import engine, gpu, model
from tests.support import spec_of, tiny

OTHERS = [load_hardware(name) for name in hardware_names()]
SIZES = ("tp", "pp", "dp", "ep", "dcp", "gpus")
MORE = ("more devices", "another layout")
# the cache of k25 is 70,272 B a token, whole on every device of a tensor-parallel group
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "k25 fits": ("k25", "h200", {"context": 131_072}, {"tp": 8}),
    # 10 of 9.2 GB are more than is left of 5, and of 10 over eight devices they are not
    "one lever will do": ("k25", "h200", {"context": 131_072, "batch": 10}, {"tp": 8}),
    # 90 are 829 GB, an eighth of them 104 GB; in 8 bits half of that
    "two together will do": ("k25", "h200", {"context": 131_072, "batch": 90}, {"tp": 8}),
    "weights alone do not fit": ("k25", "h100", {"context": 131_072}, {"tp": 8}),
    "dense": ("llama-3.1-70b", "h100", {"context": 131_072, "batch": 4}, {"tp": 2}),
    "stages": ("llama-3.1-70b", "h100", {"context": 131_072, "batch": 32}, {"tp": 2, "pp": 2}),
    "windows": ("gemma-3-27b", "l40s", {"context": 131_072}, {"tp": 2}),
}
FIT = ("k25 fits", "windows")


class Asked:
    """A question with its answer and its levers."""

    def __init__(self, name: str) -> None:
        of, on, load, spread = CASES[name]
        self.hardware = gpu(on)
        self.question = Question(
            served=model(of), engine=engine(), spread=Spread(**spread), load=Load(**load), draft=None
        )
        self.serving = self.question.on(self.hardware).best
        self.levers = levers(self.question, self.hardware, self.serving, OTHERS)

    def with_flags(self, lever: Lever) -> Serving:
        """What asking with its flags gives, beside the layout that was found unless it is replaced."""
        words = shlex.split(lever.flags)
        given: dict[str, Any] = {}
        for i, word in enumerate(words):
            if word.startswith("--"):
                alone = i + 1 == len(words) or words[i + 1].startswith("--")
                given[word[2:].replace("-", "_")] = True if alone else words[i + 1]
        on: Hardware = gpu(given.pop("gpu")) if "gpu" in given else self.hardware
        dtypes = (given.pop("kv_dtype", self.question.load.kv_dtype),)
        sizes = {n: given.pop(n) if given[n] == "all" else int(given.pop(n)) for n in SIZES if n in given}
        where = self.serving.where
        kept = {} if lever.name in MORE else {n: getattr(where, n) for n in ("tp", "pp", "dp", "ep", "dcp")}
        spread = Spread(**{**kept, **sizes, "kv_dtypes": dtypes})
        load: dict[str, Any] = {}
        for flag, value in given.items():
            if flag == "utilization":
                load[flag] = float(value)
            elif flag == "offload_experts":
                assert value == "host"
                load["offloaded"] = None
            else:
                load[flag] = value if value is True else int(value.replace("k", "")) * (1024 if "k" in value else 1)
        question = replace(self.question, spread=spread, load=replace(self.question.load, **load))
        return question.on(on).best


@pytest.fixture(scope="module")
def asked() -> dict[str, Asked]:
    return {name: Asked(name) for name in CASES}


def fitting(some: list[Lever]) -> list[str]:
    return [lever.flags for lever in some if lever.serving is not None and lever.serving.fits]


def single(lever: Lever) -> bool:
    """Whether it changes one thing of the question and no device."""
    return (
        " + " not in lever.name
        and not lever.flags.startswith(("--context", "--batch ", "--gpu ", "--offload-experts"))
        and (lever.name not in MORE)
    )


# ------------------------------------------------------------------------------------------------ each of them


@pytest.mark.parametrize("name", CASES)
def test_a_lever_leads_to_what_asking_with_its_flags_gives(asked: dict[str, Asked], name: str) -> None:
    tried = asked[name]
    assert len(tried.levers) >= 3
    for lever in tried.levers:
        assert lever.serving is not None, lever.refused
        found = tried.with_flags(lever)
        assert found.where == lever.serving.where, lever.flags
        assert found.load == lever.serving.load, lever.flags
        assert (found.margin, found.margins, found.word) == (
            lever.serving.margin,
            lever.serving.margins,
            lever.serving.word,
        )
        assert (found.max_tokens, found.max_batch) == (lever.serving.max_tokens, lever.serving.max_batch)


@pytest.mark.parametrize("name", CASES)
def test_levers_are_named_once_and_change_something(asked: dict[str, Asked], name: str) -> None:
    tried = asked[name]
    assert len({lever.flags for lever in tried.levers}) == len(tried.levers)
    for lever in tried.levers:
        assert lever.serving is not None
        changed = (lever.serving.where, lever.serving.load, lever.hardware.name)
        assert changed != (tried.serving.where, tried.serving.load, tried.hardware.name), lever.flags


def test_levers_are_of_what_the_model_has(asked: dict[str, Asked]) -> None:
    flags = {name: {lever.flags for lever in tried.levers} for name, tried in asked.items()}
    # k25: latents to divide, a tower, experts; 8192 tokens and 1024 sequences a step; graphs inside the share
    assert flags["k25 fits"] == {
        "--dcp 8",
        "--max-num-seqs 64",
        "--batched-tokens 2k",
        "--language-only",
        "--utilization 0.95",
        "--kv-dtype fp8",
        "--tp 1 --dp 8 --ep all",
        "--eager",
    }
    # 8 key-value heads over 2 devices are copied nowhere; no tower and no experts
    alone = {lever.flags for lever in asked["dense"].levers if single(lever)}
    assert alone == {
        "--max-num-seqs 64",
        "--batched-tokens 2k",
        "--utilization 0.95",
        "--kv-dtype fp8",
        "--tp 1 --dp 2",
        "--eager",
    }
    # an L40S has steps of 2048 tokens already
    assert "--batched-tokens 2k" not in flags["windows"]


def test_what_was_asked_already_is_no_lever() -> None:
    load = Load(context=1024, language_only=True, eager=True, utilization=0.95, max_num_seqs=64, batched_tokens=2048)
    spread = Spread(tp=8, dcp=8, kv_dtypes=("fp8",))
    question = Question(served=model("k25"), engine=engine(), spread=spread, load=load)
    assert levers(question, gpu("h200"), question.on(gpu("h200")).best, OTHERS) == []


def test_engines_that_count_graphs_outside_their_share_gain_nothing_without_them() -> None:
    for by, there in (("vllm", True), ("vllm-0.8", False), ("sglang", False)):
        question = Question(served=model("k25"), engine=engine(by), spread=Spread(tp=8), load=Load(context=1024))
        found = levers(question, gpu("h200"), question.on(gpu("h200")).best, OTHERS)
        assert ("--eager" in {lever.flags for lever in found}) is there
        # a fraction of SGLang's is of what is free, and its default follows from the reserve
        assert ("--utilization 0.95" in {lever.flags for lever in found}) is (by != "sglang")


def test_a_lever_that_is_refused_says_why() -> None:
    # SGLang holds as many experts on every device: 8 over 3 it does not; by their width, 240, they divide
    content = tiny()
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": 12, "num_key_value_heads": 12}
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 240
    content["backbone"]["ffn"]["moe"] |= {"moe_intermediate_size": 240, "n_routed_experts": 8}
    question = Question(
        served=model(spec_of(content)), engine=engine("sglang"), spread=Spread(tp=3), load=Load(context=64)
    )
    found = levers(question, gpu("h100"), question.on(gpu("h100")).best, [])
    (refused,) = [lever for lever in found if lever.refused]
    assert refused.flags == "--tp 1 --dp 3 --ep all"
    assert refused.refused == "n_routed_experts 8 can't be divided over ep 3"
    assert refused.serving is None
    assert all(lever.serving is not None for lever in found if lever is not refused)


# ------------------------------------------------------------------------------------------------ together


def test_a_combination_stands_only_where_nothing_alone_fits(asked: dict[str, Asked]) -> None:
    for name, tried in asked.items():
        alone = [lever for lever in tried.levers if single(lever)]
        both = [lever for lever in tried.levers if " + " in lever.name]
        if tried.serving.fits or fitting(alone):
            assert both == [], name
        assert len(both) <= 1
    assert "--dcp 8" in fitting(asked["one lever will do"].levers)
    assert fitting([v for v in asked["two together will do"].levers if single(v)]) == []


def test_the_combination_is_the_first_of_the_smallest_that_fit(asked: dict[str, Asked]) -> None:
    tried = asked["two together will do"]
    alone = [lever for lever in tried.levers if single(lever)]
    (found,) = [lever for lever in tried.levers if " + " in lever.name]
    assert found.flags == "--dcp 8 --kv-dtype fp8"
    assert found.serving is not None
    assert found.serving.fits
    # every pair before it, in the order of the levers, does not fit
    pairs = [" ".join(lever.flags for lever in pair) for pair in combinations(alone, 2)]
    for pair in pairs[: pairs.index(found.flags)]:
        assert not tried.with_flags(replace(found, flags=pair)).fits, pair


# --------------------------------------------------------------------------- shorter, more devices, other devices


def test_where_it_fits_nothing_is_shortened_and_no_other_device_is_needed(asked: dict[str, Asked]) -> None:
    for name, tried in asked.items():
        others = [lever for lever in tried.levers if not single(lever)]
        assert bool(others) is not tried.serving.fits, name
        assert all(lever.hardware is tried.hardware for lever in tried.levers if single(lever))
    assert [name for name, tried in asked.items() if tried.serving.fits] == list(FIT)


@pytest.mark.parametrize("name", ["one lever will do", "stages"])
def test_shorter_and_fewer_are_the_most_that_fit(asked: dict[str, Asked], name: str) -> None:
    tried = asked[name]
    by_flag = {lever.flags.split()[0]: lever for lever in tried.levers if not single(lever)}
    for flag, step in (("--context", 64), ("--batch", 1)):
        lever = by_flag[flag]
        assert lever.serving is not None
        assert lever.serving.fits
        more = int(lever.flags.split()[1]) + step  # a page is 64 tokens at the most
        assert not tried.with_flags(replace(lever, flags=f"{flag} {more}")).fits


def test_nothing_is_shortened_where_the_cache_is_not_what_lacks_room() -> None:
    # graphs have no room beside 99.5 % of the memory: the pool would hold 900 times the load
    load = Load(context=1024, utilization=0.995)
    question = Question(served=model("k25"), engine=engine("vllm-0.8"), spread=Spread(tp=8), load=load)
    serving = question.on(gpu("h200")).best
    assert serving.free > 0 > serving.margin
    found = levers(question, gpu("h200"), serving, [])
    assert not any(lever.flags.startswith(("--context", "--batch ")) for lever in found)
    # fewer graphs have room
    assert "--max-num-seqs 64" in fitting(found)


def test_no_number_at_once_is_named_where_not_one_fits(asked: dict[str, Asked]) -> None:
    # two H100 hold 70.6 GB of weights each, and no 21 GB for a sequence of 131,072 tokens, 163,840 B each
    flags = [lever.flags.split()[0] for lever in asked["dense"].levers]
    assert "--context" in flags
    assert "--batch" not in flags


def test_nothing_is_shortened_where_there_is_no_room_for_a_page(asked: dict[str, Asked]) -> None:
    flags = [lever.flags for lever in asked["weights alone do not fit"].levers]
    assert not any(word.startswith(("--context", "--batch ")) for word in flags)


@pytest.mark.parametrize("name", [name for name in CASES if name not in FIT])
def test_more_devices_fit_or_are_the_closest(asked: dict[str, Asked], name: str) -> None:
    tried = asked[name]
    found = [lever for lever in tried.levers if lever.name in MORE]
    if not found:  # what the search finds is what a lever above says
        best = replace(tried.question, spread=Spread(kv_dtypes=tried.question.spread.kv_dtypes)).on(tried.hardware).best
        assert best.where in {lever.serving.where for lever in tried.levers if lever.serving is not None}
        return
    (more,) = found
    assert more.serving is not None
    assert more.serving.fits
    devices = more.serving.where.devices
    assert more.name == ("more devices" if devices > tried.serving.where.devices else "another layout")


@pytest.mark.parametrize("name", [name for name in CASES if name not in FIT])
def test_the_smallest_larger_device_that_fits_is_named(asked: dict[str, Asked], name: str) -> None:
    tried = asked[name]
    mine = tried.hardware.memory_visible_bytes
    larger = sorted(
        (h for h in OTHERS if h.memory_visible_bytes > mine), key=lambda h: (h.memory_visible_bytes, h.name)
    )
    where = tried.serving.where
    spread = Spread(tp=where.tp, pp=where.pp, dp=where.dp, ep=where.ep, dcp=where.dcp)
    fits = [h.name for h in larger if replace(tried.question, spread=spread).on(h).best.fits]
    named = [lever.flags for lever in tried.levers if lever.flags.startswith("--gpu ")]
    assert named == ([f"--gpu {fits[0]}"] if fits else [])
