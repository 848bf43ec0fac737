"""What is worked out, and what is refused by the name of a limit: as docs/limits.md says."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from archcalc.arch.vision import Vision as VisionTower
from archcalc.documents.claims import claimed_quantities
from archcalc.documents.sizes import parse_lengths
from archcalc.errors import InputError
from archcalc.files.loader import parse
from archcalc.files.model import Spec
from archcalc.files.yaml_loader import load
from archcalc.hf import json_file
from archcalc.limits import (
    CLAIMS,
    ENTRIES,
    INDEX_BYTES,
    JSON_BYTES,
    LAYER_STEPS,
    LENGTHS,
    LIMITS,
    LOG_BYTES,
    MEMORY,
    PAGE,
    PICTURES,
    PREFETCH,
    QUESTIONS,
    SECONDS,
    STAGES,
    TEXT,
    VIRTUAL_STAGES,
    WARMUP,
    YAML_BYTES,
    Limit,
    beyond,
)
from archcalc.serving.log import read_log
from archcalc.training.images import sight
from archcalc.training.load import load_plan
from archcalc.training.owners import handed_out
from archcalc.training.schedule import Pipeline, get_schedule, live_states
from archcalc.training.schedule.walks import walks
from archcalc.workload import Workload
from tests.limits_page import FILE, page
from tests.support import data, dumped, run, spec_of, tiny, written
from tests.towers import TOWERS


def test_the_page_has_every_limit_with_its_value():
    text = FILE.read_text()
    assert page(text) == text
    assert text.count("\n| `") == len(LIMITS) == len({limit.name for limit in LIMITS})
    assert f"within {SECONDS} seconds and {MEMORY // 10**6} MB" in text


def test_an_input_beyond_a_limit_is_told_which_and_what_to_do():
    error = beyond(LENGTHS, 20_000)
    assert "20,000" in error.message
    assert "the limit `lengths` is 10,000" in error.message
    assert PAGE in str(error.hint)
    assert "more than 2^64" in beyond(LENGTHS, 10**5000).message


def plan(*overrides: str) -> Callable[[], Any]:
    return lambda: load_plan("k2-pretrain", overrides)


def pipelined(pp: int, vpp: int) -> Callable[[], Any]:
    """World is a multiple of what a stage needs, and the batch as large as before."""
    kind = "interleaved-1f1b" if vpp > 1 else "1f1b"
    sizes = (f"parallel.pp={pp}", f"parallel.vpp={vpp}", f"parallel.world={16 * pp}", f"schedule.kind={kind}")
    return plan(*sizes, "batch.global_tokens=67108864")


def warmed_up(forwards: int) -> Callable[[], Any]:
    return plan(f"schedule.extra_warmup={forwards}")


def pictured(images: int) -> Callable[[], Any]:
    return plan("batch.seq=65536", f"batch.images={{size: [28, 28], per_sequence: {images}}}")


def filmed(frames: int) -> Callable[[], Any]:
    return plan("batch.seq=65536", f"batch.videos={{size: [{frames}, 28, 28], per_sequence: 1}}")


def spec(**sections: Any) -> Callable[[], Any]:
    """A small spec with other sections, as a file."""
    return lambda: parse(dumped(tiny() | sections), "s.yaml", Spec)


def stepped(steps: int) -> Callable[[], Any]:
    """Layers of two steps, each of a kind of its own; an odd step stands alone."""
    names = [f"d{n}" for n in range((steps + 1) // 2)]
    dense = tiny()["backbone"]["ffn"]["dense"]
    layers: list[dict[str, Any]] = [{"count": 1, "attention": "gqa", "ffn": name} for name in names]
    if steps % 2:
        layers[-1] = {"count": 1, "steps": [{"ffn": names[-1]}]}
    backbone = {"layers": layers, "num_hidden_layers": len(layers), "ffn": {name: dict(dense) for name in names}}
    return lambda: parse(dumped(tiny(**backbone)), "s.yaml", Spec)


def claimed(claims: int, **more: Any) -> list[dict[str, Any]]:
    said = {"quantity": "params.total", "value": None, "source": "a paper"}
    return [{"claim": f"claim {n}"} | said | {key: make(n) for key, make in more.items()} for n in range(claims)]


AT_AND_BEYOND: dict[str, tuple[Limit, Callable[[int], Callable[[], Any]]]] = {
    "lengths": (LENGTHS, lambda n: lambda: parse_lengths(f"8x{n}")),
    "lengths of a workload": (LENGTHS, lambda n: lambda: Workload(lengths=(1,) * n)),
    "images of a workload": (PICTURES, lambda n: lambda: Workload(images=((28, 28),) * n)),
    "frames of a workload": (PICTURES, lambda n: lambda: Workload(videos=((n, 28, 28),))),
    "frames of a plan": (PICTURES, filmed),
    "pipeline ranks": (STAGES, lambda n: pipelined(n, 1)),
    "virtual stages": (VIRTUAL_STAGES, lambda n: pipelined(8, n)),
    "warm-up": (WARMUP, warmed_up),
    "groups ahead": (PREFETCH, lambda n: lambda: load_plan("llama-3-8b-fsdp2", (f"fsdp.prefetch={n}",))),
    "steps of layers": (LAYER_STEPS, stepped),
    "a title": (TEXT, lambda n: spec(title="x" * n)),
    "sources": (ENTRIES, lambda n: spec(sources={f"s{i}": "a paper" for i in range(n)})),
    "claims": (CLAIMS, lambda n: spec(claims=claimed(n))),
}


@pytest.mark.parametrize("case", AT_AND_BEYOND)
def test_what_is_at_a_limit_is_taken_and_one_more_is_refused_by_its_name(case: str):
    limit, asked = AT_AND_BEYOND[case]
    asked(limit.most)()
    with pytest.raises(InputError) as refused:
        asked(limit.most + 1)()
    assert f"{limit.most + 1:,} {limit.unit}: the limit `{limit.name}` is {limit.most:,}" in refused.value.message


def test_stages_are_counted_over_ranks_and_chunks():
    pipelined(16, 64)()
    with pytest.raises(InputError, match="1,088 pipeline stages: the limit `stages` is 1,024"):
        pipelined(17, 64)()


def test_pictures_of_a_plan_add_up_over_its_list():
    both = "batch.images=[{size: [28, 28], per_sequence: 65536}, {size: [56, 56], per_sequence: 1}]"
    with pytest.raises(InputError, match="65,537 images and frames of videos in a sequence: the limit `pictures`"):
        load_plan("k2-pretrain", (both,))


def test_a_mean_number_of_vision_tokens_stands_for_no_more_pictures_than_may_be_named():
    """CLIP's tower makes a square of 336 pixels of every picture, 24 x 24 patches: as many tokens. A sequence of
    so many that one picture more than the limit stands for them."""
    tower = TypeAdapter(VisionTower).validate_python(TOWERS["clip-l-336"][0])
    tokens = (PICTURES.most + 1) * 24 * 24
    few = ("parallel.world=16", "parallel.ep=1", f"batch.global_tokens={tokens}")
    asked = (*few, f"batch.seq={tokens}", f"batch.images={{tokens_per_sequence: {tokens}}}", "schedule.kind=gpipe")
    plan = load_plan("k2-pretrain", (*asked, "schedule.extra_warmup=0", "parallel.vpp=1"))
    with pytest.raises(InputError, match="65,537 images and frames of videos in a sequence: the limit `pictures`"):
        sight(tower, plan)


def test_what_is_asked_of_a_spec_adds_up_to_a_limit():
    """40 passes for each GPU and length of its own: as many as fit into the limit, and one more."""
    length = spec_of(tiny()).trace(Workload()).length
    each = 40 * length
    fit = QUESTIONS.most // each

    def asked(number: int) -> list[Any]:
        about = {"quantity": lambda n: "serve.margin_bytes", "gpu": lambda n: "h200", "context": lambda n: n + 1}
        return claimed_quantities(spec_of(tiny() | {"claims": claimed(number, **about)}))

    assert len(asked(fit)) == fit
    with pytest.raises(InputError, match=f"{(fit + 1) * each:,} {QUESTIONS.unit}: the limit `questions` is 60,000"):
        asked(fit + 1)


def test_patterns_that_take_long_to_match_are_refused_before_they_are_tried():
    """Each of them may end its three repeats anywhere in a path of a hundred characters: a million ways."""
    plain = {"scheme": "plain", "dtype": "bfloat16"}
    rules = [{"match": f"re:.*a.*b.*c{n}", "store": dict(plain)} for n in range(900)]
    start = time.process_time()
    with pytest.raises(InputError, match=r"steps of matching: the limit `storage-matching` is 200,000,000"):
        spec(storage=[*rules, {"match": "default", "store": plain}])()
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    ("limit", "refused"),
    [
        (YAML_BYTES, lambda raw: load(raw, "s.yaml")),
        (JSON_BYTES, lambda raw: json_file.load(raw, "config.json")),
        (INDEX_BYTES, lambda raw: json_file.load(raw, "index.json", limit=INDEX_BYTES)),
    ],
)
def test_a_file_beyond_its_limit_is_refused_by_its_name(limit: Limit, refused: Callable[[bytes], Any]):
    with pytest.raises(InputError, match=f"larger than {limit.most >> 20} MiB") as larger:
        refused(b" " * (limit.most + 1))
    assert f"the limit `{limit.name}`" in str(larger.value.hint)
    with pytest.raises(InputError) as empty:
        refused(b" " * limit.most)
    assert "larger" not in empty.value.message


def test_a_log_beyond_its_limit_is_refused_and_one_at_it_is_read():
    said = "INFO 01-01 00:00:00 [worker.py:1] Model loading took 14.99 GiB and 3.2 seconds\n"
    line = "x" * (1 << 10) + "\n"
    read_log(said + line * ((LOG_BYTES.most - len(said)) // len(line)))
    with pytest.raises(InputError, match="`log-bytes`"):
        read_log(said + line * (LOG_BYTES.most // len(line)))


# ------------------------------------------------------------------------------------------------- work at the limits


def test_walks_of_the_longest_pipelines_do_not_grow_with_the_batch():
    """The most chunks that a rank may have, with the longest warm-up: some thousand walks, whatever the step."""
    schedule = get_schedule("interleaved-1f1b")
    found = []
    for micro_batches in (1024, 1 << 60):
        pipeline = Pipeline(pp=16, vpp=64, micro_batches=micro_batches, extra_warmup=WARMUP.most)
        found.append(len(walks(schedule, pipeline, 0, ahead=True)))
    assert found[0] == found[1] < 2500


def test_gpipe_keeps_every_micro_batch_of_the_largest_step():
    (forward, backward) = live_states(get_schedule("gpipe"), Pipeline(pp=8, micro_batches=1 << 60), 0)
    assert forward.live == backward.live == (1 << 60,)


def test_handing_out_does_not_grow_with_devices_or_items():
    # 10^12 devices, an item of 7 and 3 x 10^12 items of 2. One device has the 7, each of the others gets 2, 4, 6:
    # 3 (10^12 - 1) items. Three are left for whoever holds least: 6 and 2 more.
    assert handed_out([(7, 1), (2, 3 * 10**12)], 10**12) == 8


def test_a_huge_run_stays_within_the_promise(tmp_path: Path):
    """A step of a million micro-batches on 256 million devices, as a whole process whose address space and processor
    time are limited: four times the promised seconds, for slow machines."""
    code = "import sys; from archcalc.cli import main; sys.argv = sys.argv[1:]; sys.exit(main())"
    world, micro_batches = 256 * 10**6, 10**6
    tokens = world // 16 * 4096 * micro_batches
    overrides = (f"parallel.world={world}", f"batch.global_tokens={tokens}", "precision.muon_layout=whole")
    plain = ("schedule.kind=gpipe", "parallel.vpp=1", "schedule.extra_warmup=0")
    flags = [word for each in (*overrides, *plain) for word in ("--set", each)]

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (4 * SECONDS, 4 * SECONDS))

    argv = [sys.executable, "-c", code, "archcalc", "train", "kimi-k2", "--plan", "k2-pretrain", *flags]
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, preexec_fn=bounded, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_spec_of_as_many_kinds_of_layers_as_may_be_is_looked_for_on_every_gpu(tmp_path: Path):
    """40 kinds of two MoE layers each, whose experts differ in width: every layout of every GPU divides them."""
    content = data("k25")
    backbone = content["backbone"]
    moe = backbone["ffn"]["moe"]
    names = [f"m{n}" for n in range(LAYER_STEPS.most // 2)]
    (mixer,) = backbone["attention"]
    backbone |= {
        "layers": [{"count": 2, "attention": mixer, "ffn": name} for name in names],
        "num_hidden_layers": 2 * len(names),
        "ffn": {name: moe | {"moe_intermediate_size": 2048 + 128 * n} for n, name in enumerate(names)},
    }
    path = written(tmp_path, {key: content[key] for key in content if key != "claims"})
    start = time.process_time()
    assert run("serve", path, "--gpu", "all").code == 0
    assert time.process_time() - start < SECONDS


def test_layouts_of_many_devices_are_found_by_their_divisors():
    start = time.process_time()
    assert run("plot", "memory", "k25", "--gpus", "735134400").code == 0  # 1,344 of them
    assert time.process_time() - start < SECONDS
