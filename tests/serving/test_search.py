"""Which layouts are asked, in which order, and where a search stops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from archcalc.errors import InputError
from archcalc.files.model import Spec
from archcalc.hardware import Hardware
from archcalc.serving import search
from archcalc.serving.deployment import Deployment
from archcalc.serving.overhead import Load
from archcalc.serving.search import Found, Question, Spread, called
from tests.serving.deployed import engine, gpu, model, served
from tests.support import spec_of, tiny

NODE = gpu("h200")  # 8 in a node, 150,121,545,728 B each
Sizes = tuple[int, int, int]


def question(of: Spec | str = "k25", load: Load | None = None, **spread: Any) -> Question:
    return Question(
        served=model(of), engine=engine(), spread=Spread(**spread), load=load or Load(context=8192), draft=None
    )


class Asked:
    """Stands in for serve: what it was asked, and what fits by the deployment's sizes alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, least: int, whole: int = 0, node: bool = True) -> None:
        self.seen: list[Deployment] = []
        self.dtypes: list[str] = []

        def serve(_s: Any, _h: Any, _e: Any, where: Deployment, load: Load, _d: Any) -> Any:
            self.seen.append(where)
            self.dtypes.append(load.kv_dtype)
            fits = where.devices >= least or (node and where.devices == where.tp == 8)
            return SimpleNamespace(where=where, fits=fits, margin=where.devices, whole_bytes=whole)

        monkeypatch.setattr(search, "serve", serve)

    @property
    def counts(self) -> list[int]:
        """Devices of every question, each number once."""
        return list(dict.fromkeys(where.devices for where in self.seen))

    @property
    def sizes(self) -> list[Sizes]:
        """tp, pp and dp of every question."""
        return list(dict.fromkeys((where.tp, where.pp, where.dp) for where in self.seen))


def layouts(found: Found) -> list[Sizes]:
    return [(s.where.tp, s.where.pp, s.where.dp) for s in found.tries]


# ------------------------------------------------------------------------------------------- how many devices


@pytest.mark.parametrize(
    ("node", "counts"),
    [
        # powers of two within a node, then whole nodes
        (8, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128]),
        (4, [1, 2, 4, 8, 12, 16, 24, 32, 48, 64]),
        (1, [1, 2, 3, 4, 6, 8, 12, 16]),
        (72, [1, 2, 4, 8, 16, 32, 64, *(72 * n for n in (1, 2, 3, 4, 6, 8, 12, 16))]),
    ],
)
def test_numbers_of_devices_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch, node: int, counts: list[int]) -> None:
    asked = Asked(monkeypatch, least=1 << 30, node=False)
    found = question().on(NODE.model_copy(update={"devices_per_node": node}))
    assert asked.counts == counts
    assert [s.where.devices for s in found.tries] == counts
    assert found.best is found.tries[-1]
    assert found.searched.endswith(f"of 1 to {counts[-1]} GPUs, the largest number that is tried")


def test_a_search_stops_at_the_first_number_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, least=20, node=False)
    found = question().on(NODE)
    assert asked.counts == [1, 2, 4, 8, 16, 24]
    assert found.best.where.devices == 24
    assert found.searched.endswith("of 1 to 24 GPUs, the first number that fits")


def test_layouts_of_a_number_are_asked_up_to_the_first_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two devices tp 2 does not fit and its context over both does: groups and stages are not asked."""
    asked: list[tuple[Sizes, int]] = []

    def serve(_s: Any, _h: Any, _e: Any, where: Deployment, _l: Load, _d: Any) -> Any:
        asked.append(((where.tp, where.pp, where.dp), where.dcp))
        return SimpleNamespace(where=where, fits=where.dcp == 2, margin=where.devices, whole_bytes=0)

    monkeypatch.setattr(search, "serve", serve)
    found = question().on(NODE)
    assert asked == [((1, 1, 1), 1), ((2, 1, 1), 1), ((2, 1, 1), 2)]
    assert found.best.where.dcp == 2
    assert "3 layouts" in found.searched


def test_k25_takes_eight_h200() -> None:
    found = question().on(NODE)
    # 595,148,192,736 B of weights: 1 and 2 devices have less and are asked in one layout alone; 4 have 600,486,182,912,
    # but 92 % of them are less; 8 have room
    assert layouts(found)[:2] == [(1, 1, 1), (2, 1, 1)]
    assert [s.fits for s in found.tries] == [False, False, False, True]
    assert layouts(found)[-1] == (8, 1, 1)


@pytest.mark.parametrize(
    ("spread", "counts"),
    [
        # stages and groups multiply what tensor parallel takes, up to a node
        ({"pp": 2}, [2, 4, 8, 16]),
        ({"dp": 3}, [3, 6, 12, 24]),
        ({"pp": 5}, [5, 10, 20, 40]),
        ({"pp": 2, "dp": 2}, [4, 8, 16, 32]),
    ],
)
def test_open_tensor_parallel_is_searched_under_given_stages_and_groups(
    monkeypatch: pytest.MonkeyPatch, spread: dict[str, Any], counts: list[int]
) -> None:
    asked = Asked(monkeypatch, least=1 << 30, node=False)
    found = question(**spread).on(NODE)
    assert [s.where.devices for s in found.tries] == counts
    # a node alone is asked too, for whether copies come before stages
    assert all(
        getattr(where, name) == size for where in asked.seen for name, size in spread.items() if called(where) != "tp 8"
    )
    assert {where.tp for where in asked.seen} == {1, 2, 4, 8}


@pytest.mark.parametrize(("name", "most"), [("ep", 8), ("dcp", 8)])
def test_numbers_too_small_for_what_is_given_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    Asked(monkeypatch, least=1)
    given: dict[str, Any] = {name: most}
    found = question(**given).on(NODE)
    assert found.best.where.devices == 8
    assert getattr(found.best.where, name) == 8
    assert {str(error).split(" does")[0] for error in found.refused.values()} == {f"{name} 8"}


def test_what_no_number_can_do_is_an_error() -> None:
    with pytest.raises(InputError, match="ep 7 does not divide the 1 devices"):
        question(ep=7).on(NODE)


@pytest.mark.parametrize(
    ("whole", "once"),
    [
        # as many bytes as 3 devices have: 1 and 2 have no room however they are laid out
        (3 * 150_121_545_728, {1, 2}),
        (2 * 150_121_545_728, {1}),  # just as much as two have
        (2 * 150_121_545_728 + 1, {1, 2}),
    ],
)
def test_numbers_without_room_for_the_weights_are_asked_once(
    monkeypatch: pytest.MonkeyPatch, whole: int, once: set[int]
) -> None:
    asked = Asked(monkeypatch, least=8, whole=whole, node=False)
    question().on(NODE)
    times = {n: sum(where.devices == n for where in asked.seen) for n in (1, 2, 4)}
    # one device alone has one layout; two: tp 2 and its context, groups with divided and with whole experts, stages;
    # four: (4), (2 x dp 2) with two sorts of experts and two of context, (dp 4) with two sorts, (2 x pp 2) with two of
    # context, (pp 4)
    assert times == {n: 1 if n in once else every for n, every in {1: 1, 2: 2 + 2 + 1, 4: 2 + 4 + 2 + 2 + 1}.items()}


# ----------------------------------------------------------------------------------------------- which layouts


@pytest.mark.parametrize(
    ("spread", "sizes"),
    [
        ({"tp": 8}, (8, 1, 1)),
        ({"tp": 8, "dp": 3}, (8, 1, 3)),
        ({"tp": 2, "pp": 3, "dp": 4}, (2, 3, 4)),
        ({"gpus": 16, "tp": 4}, (4, 1, 4)),  # copies fill up
        ({"gpus": 16, "tp": 4, "dp": 2}, (4, 2, 2)),  # stages, where copies are given
        ({"gpus": 16, "tp": 4, "pp": 2}, (4, 2, 2)),
        ({"gpus": 16, "pp": 2}, (8, 2, 1)),  # tensor parallel first
        ({"gpus": 16, "dp": 8}, (2, 1, 8)),
        ({"gpus": 12, "pp": 2, "dp": 2}, (3, 2, 2)),
        ({"gpus": 8}, (8, 1, 1)),
    ],
)
def test_sizes_that_are_given_fill_in_the_open_ones(
    monkeypatch: pytest.MonkeyPatch, spread: dict[str, Any], sizes: Sizes
) -> None:
    asked = Asked(monkeypatch, least=1)
    found = question(**spread).on(NODE)
    assert layouts(found) == [sizes]
    assert asked.sizes[-1] == sizes
    assert found.searched == ""


def test_a_nodes_copy_comes_before_stages_where_a_node_holds_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for node, order in ((True, [(8, 1, 3), (8, 3, 1)]), (False, [(8, 3, 1), (8, 1, 3)])):
        asked = Asked(monkeypatch, least=1 << 30, node=node)
        question(gpus=24).on(NODE)
        # the node alone is asked in between: what it serves of the load
        assert [sizes for sizes in asked.sizes if sizes != (8, 1, 1)] == [*order, (24, 1, 1)]


@pytest.mark.parametrize(
    ("on", "layout"),
    # 71.2 GiB a GPU: a node of H200 holds a copy, a node of H100 does not
    [("h200", (8, 1, 2)), ("h100", (8, 2, 1))],
)
def test_k25_on_two_nodes(on: str, layout: Sizes) -> None:
    assert layouts(question(gpus=16).on(gpu(on))) == [layout]


def test_a_node_is_asked_for_its_share_of_the_sequences() -> None:
    # 549 MiB a sequence of 8192 tokens: 51.36 GiB are 95 of them on one node, and two nodes hold twice as many
    each = served("k25", tp=8, load=Load(context=8192)).max_batch
    assert each == 95
    for batch, layout in ((2 * each, (8, 1, 2)), (2 * each + 2, (8, 2, 1))):
        found = question(load=Load(context=8192, batch=batch), gpus=16)
        asked = [sizes for sizes in found._sizes(NODE, 16) if sizes != (16, 1, 1)]
        assert asked[0] == layout


def heads(number: int, pairs: int) -> Spec:
    content = tiny()
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": number, "num_key_value_heads": pairs}
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 240
    content["backbone"]["ffn"]["moe"]["moe_intermediate_size"] = 240
    return spec_of(content)


def test_a_tp_that_does_not_divide_the_heads_falls_back_to_a_smaller_one() -> None:
    # 12 heads over 8 devices: 4 of them, and two copies
    found = question(heads(12, 4), Load(context=8), gpus=8).on(NODE)
    assert layouts(found) == [(4, 1, 2)]
    assert [str(error).split(" over")[0] for error in found.refused.values()] == [
        "num_attention_heads 12 can't be divided"
    ]


def test_a_tp_that_is_asked_for_does_not_fall_back() -> None:
    with pytest.raises(InputError, match="num_attention_heads 12 can't be divided over tp 8"):
        question(heads(12, 4), Load(context=8), tp=8).on(NODE)


def test_a_given_number_whose_first_layout_divides_tries_no_smaller_tp(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, least=1 << 30, node=False)
    question(gpus=8).on(NODE)
    assert asked.sizes == [(8, 1, 1)]


def test_where_nothing_fits_the_layout_with_the_most_left_stands_for_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serve(_s: Any, _h: Any, _e: Any, where: Deployment, _l: Any, _d: Any) -> Any:
        # the most is left with tp 2, and of those with groups and whole experts
        margin = -10 * abs(where.tp - 2) - where.pp + where.ep - where.dcp
        return SimpleNamespace(where=where, fits=False, margin=margin, whole_bytes=0)

    monkeypatch.setattr(search, "serve", serve)
    found = question().on(NODE)
    closest = {s.where.devices: s.where for s in found.tries}
    assert closest[1] == Deployment()
    assert closest[4] == Deployment(tp=2, dp=2, ep=4)


def test_cache_layouts_are_tried_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, least=1 << 30, node=False)
    question(gpus=8, kv_dtypes=("bf16", "fp8")).on(NODE)
    assert asked.dtypes == ["bf16", "fp8"]


@pytest.mark.parametrize(
    ("name", "tp", "parts"),
    [
        # MLA's latents are whole on every device; 8 key-value heads are divided over 8 and copied past them
        ("k25", 8, [8]),
        ("k25", 1, []),
        ("llama-3.1-70b", 8, []),
        ("llama-3.1-70b", 32, [4]),
        ("gemma-3-27b", 32, []),  # two copies of 16 heads, but no window is divided
    ],
)
def test_context_is_divided_as_far_as_tensor_parallel_copies_the_cache(name: str, tp: int, parts: list[int]) -> None:
    assert search.contexts(model(name).tape, engine(), tp) == parts
    assert search.contexts(model(name).tape, engine("sglang"), tp) == []


# -------------------------------------------------------------------------------------------------- in words


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (Deployment(), "tp 1"),
        (Deployment(tp=8), "tp 8"),
        (Deployment(dp=8, ep=8), "tp 1 x dp 8, ep 8"),
        (Deployment(tp=8, dp=3, ep=24), "tp 8 x dp 3, ep 24"),
        (Deployment(tp=8, pp=2, dcp=4), "tp 8 x pp 2, dcp 4"),
        (Deployment(tp=2, pp=3, dp=4, ep=8, dcp=2), "tp 2 x pp 3 x dp 4, ep 8, dcp 2"),
    ],
)
def test_a_deployment_is_called_by_its_flags(where: Deployment, words: str) -> None:
    assert called(where) == words


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"gpus": 8, "tp": 3}, "tp 3 does not make 8 GPUs"),
        ({"gpus": 16, "tp": 4, "pp": 2, "dp": 1}, "tp 4 x pp 2 x dp 1 does not make 16 GPUs"),
        ({"gpus": 8, "pp": 3, "dp": 2}, "pp 3 x dp 2 does not make 8 GPUs"),
        ({"gpus": 4, "dp": 8}, "dp 8 does not make 4 GPUs"),
        ({"tp": 0}, "tp must be at least 1, not 0"),
        ({"ep": -1}, "ep must be at least 1, not -1"),
    ],
)
def test_sizes_that_do_not_multiply_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Spread(**sizes)  # type: ignore[arg-type]


def test_sizes_that_multiply_are_not() -> None:
    assert Spread(gpus=16, tp=4, pp=2).fixed == 16
    assert Spread(tp=4, pp=2).fixed == 8
    assert Spread(pp=2).fixed is None
    assert Spread(ep="all", kv_dtypes=("fp8",)).fixed is None


def test_a_device_without_a_layout_is_refused_as_its_first_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(_s: Any, _h: Hardware, _e: Any, where: Deployment, _l: Any, _d: Any) -> Any:
        raise InputError(f"no {called(where)}")

    monkeypatch.setattr(search, "serve", serve)
    with pytest.raises(InputError, match=r"no tp 1$"):
        question().on(NODE)
