"""The plan file: strict, every field where it belongs, and every impossible combination an error that says
why."""

from pathlib import Path

import pytest

from archcalc.errors import InputError, SpecError
from archcalc.files.loader import bundled_dir
from archcalc.training.load import load_plan
from archcalc.training.memory import training_memory
from archcalc.training.plan import Plan
from tests.training.plans import k2_plan, run_of

BUNDLED = bundled_dir() / "plans" / "k2-pretrain.yaml"


def test_the_bundled_plan_is_the_reports() -> None:
    plan = k2_plan()
    p = plan.parallel
    assert (p.world, p.pp, p.ep, p.zero, plan.batch.seq) == (256, 16, 16, 1, 4096)
    assert (p.dense_dp, p.expert_dp, p.replica) == (16, 1, 256)
    assert plan.micro_batches == 16_384 // 16  # 67,108,864 / 4096 sequences over 16 data-parallel groups
    assert set(plan.assumed) >= {"parallel.vpp", "parallel.layout", "memory.fixed"}


@pytest.mark.parametrize(
    ("world", "dense", "expert", "micro_batches"), [(256, 16, 1, 1024), (1024, 64, 4, 256), (2048, 128, 8, 128)]
)
def test_groups_and_micro_batches_follow_the_world(world: int, dense: int, expert: int, micro_batches: int) -> None:
    plan = k2_plan(f"parallel.world={world}")
    assert (plan.parallel.dense_dp, plan.parallel.expert_dp, plan.micro_batches) == (dense, expert, micro_batches)


def test_a_replica_holds_whole_groups_of_both_kinds() -> None:
    plan = k2_plan("parallel.tp=2", "parallel.sp=true", "parallel.cp=2")
    assert plan.parallel.replica == 16 * 16  # ep 16 is a multiple of tp x cp 4
    wide = k2_plan("parallel.tp=8", "parallel.sp=true", "parallel.ep=4")
    assert wide.parallel.replica == 16 * 8


def test_memory_is_exact() -> None:
    plan = k2_plan("memory.fixed=1.5GiB", "memory.allocator_efficiency=0.9")
    assert plan.memory.fixed_bytes == 3 * 2**29
    assert plan.memory.efficiency.as_integer_ratio() == (9, 10)


def test_a_loss_that_is_left_out_goes_with_the_kernels() -> None:
    plan = k2_plan()
    assert plan.activations.loss == "fused"  # named in the plan
    for kernels, loss in (("fused", "te"), ("eager", "eager")):
        assert k2_plan("activations.cross_entropy=null", f"activations.kernels={kernels}").activations.loss == loss


INVALID = [
    ("parallel.ep=7", "world 256 is no multiple of pp x ep x etp = 112"),
    ("parallel.pp=62", "world 256 is no multiple of pp x tp x cp = 62"),
    ("parallel.cp=32", "world 256 is no multiple of pp x tp x cp = 512"),  # more than there are: no replica is left
    ("parallel.world=100", "world 100 is no multiple of pp x tp x cp = 16"),
    ("parallel.zero=4", "zero must be `0`, `1`, `2` or `3`, not 4"),
    ("parallel.sp=true", "sp needs tp above 1"),
    ("parallel={world: 2048, pp: 32, vpp: 64, layout: auto, ep: 1, etp: 1, tp: 1, sp: false, cp: 1, zero: 1}", "2,048"),
    ("batch.images=7", "images must be a mapping or a list, not 7"),
    ("batch.images={size: 1x1}", "per_sequence is missing"),
    ("batch.seq=0", "seq must be greater than 0"),
    ("batch.seq=4095", "global_tokens 67108864 is no multiple"),
    ("batch.micro_batch=3", "global_tokens 67108864 is no multiple"),
    ("schedule.kind=1f1b", "1f1b has 1 virtual stage"),
    ("schedule.kind=interleaved", "there is no pipeline schedule 'interleaved'"),
    ("schedule.group=8", "a group of 8 micro-batches is smaller than pp 16"),
    ("schedule.group=2000", "a group of 2000 micro-batches is larger than the step"),
    ("schedule.group=1023", "leave a last group of 1"),
    ("schedule.extra_warmup=-1", "extra_warmup must be at least 0"),
    ("activations.recompute=[moe]", "recompute moe and an extra warm-up exclude each other"),
    ("activations.recompute=[full]", "recompute full and an extra warm-up exclude each other"),
    ("activations.recompute=[layernorms]", "unknown recompute option layernorms"),
    ("activations.recompute=[mlp, mlp]", "mlp stands twice"),
    ("activations.fp8=[swiglu]", "unknown FP8 option swiglu"),
    ("activations.offload=al", "unknown offload group al"),
    ("activations.moe_imbalance=0.5", "moe_imbalance must be at least 1"),
    ("activations.hidden_dropout=1.0", "hidden_dropout must be less than 1"),
    ("activations.attention_dropout=-0.1", "attention_dropout must be at least 0"),
    ("activations.rope=none", "rope must be `fused` or `unfused`, not none"),
    ("activations.core=math", "core must be `flash`, `flash-attn` or `unfused`, not math"),
    ("activations.kernels=slow", "kernels must be `fused` or `eager`, not slow"),
    ("precision.optimizer=moun", "unknown optimizer moun"),
    ("memory.fixed=-1GB", "fixed: a memory size can't be negative: -1GB"),
    ("memory.fixed=lots", "lots"),
    ("memory.fixed=2", "fixed 2 has no unit"),
    ("memory.allocator_efficiency=0", "allocator_efficiency must be greater than 0"),
    ("memory.allocator_efficiency=1.1", "allocator_efficiency must be at most 1"),
    ("vision.process=third-stage", "process must be `decoupled`, `first-stage` or `frozen`, not third-stage"),
    ("assumed=[parallel.nosuch]", "assumed names no field of a plan: parallel.nosuch"),
]


def test_unfused_attention_can_not_be_divided_over_context_parallel_devices() -> None:
    with pytest.raises(InputError, match="unfused attention holds whole rows of scores"):
        k2_plan("parallel.cp=2", "parallel.vpp=1", "schedule.kind=1f1b", "activations.core=unfused")


@pytest.mark.parametrize(("override", "message"), INVALID, ids=[o for o, _ in INVALID])
def test_an_impossible_plan_says_why(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        k2_plan(override)
    assert message.replace("'", "") in str(error.value).replace("'", "").replace('"', "")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("parallel.zer=1", "did you mean parallel.zero?"),
        ("paralel.ep=8", "did you mean parallel.ep?"),
        ("parallel.ppp=8", "did you mean parallel.pp?"),
        ("bach.micro_batch=2", "did you mean batch.micro_batch?"),  # the section is nearer than the other that has one
        ("pp=8", "did you mean parallel.pp?"),
        ("PARALLEL.PP=8", "did you mean parallel.pp?"),
        ("parallel.seq=8k", "did you mean batch.seq?"),  # a field of another section
        ("micro_batch=2", "did you mean batch.micro_batch or vision.micro_batch?"),
        ("hardwar=h200", "did you mean hardware?"),
        ("parallel.foo=1", "parallel has world, pp, vpp, layout, ep, etp, tp, sp, cp, cp_comm, zero"),
        ("parallel.dp=8", "data parallel is what world leaves: it follows from parallel.world"),
        (
            "batch.images.size=1x1",
            "batch.images is not one mapping in this plan: write --set 'batch.images={...}'",
        ),
        ("schedule=1f1b", "it has kind, extra_warmup, ep_overlap, group: set one of them, as schedule.kind=..."),
        ("parallel.pp", "write --set parallel.pp=8"),
    ],
)
def test_an_override_of_no_field_gets_the_near_miss(override: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        k2_plan(override)
    assert (error.value.hint or "").startswith(hint)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("batch.seq=8k", 8192),  # a length: as --seq 8k
        ("batch.seq=8,192", 8192),
        ("batch.seq=8KiB", 8192),
        ("batch.global_tokens=134,217,728", 1 << 27),
        ("batch.global_tokens=128Mi", 1 << 27),
        ("parallel.world=1,024", 1024),
        ("schedule.extra_warmup=2", 2),
    ],
)
def test_a_number_is_set_as_flags_have_it(override: str, value: int) -> None:
    section, name = override.partition("=")[0].split(".")
    assert getattr(getattr(k2_plan(override), section), name) == value


def test_a_count_is_decimal_and_a_length_binary() -> None:
    # 262,144,000 = 32,000 sequences of 8,192, of which 16 data-parallel devices have 2,000 each
    plan = k2_plan("batch.seq=8k", "batch.global_tokens=262,144K")
    assert plan.batch.global_tokens == 262_144_000
    assert plan.micro_batches == 2000


@pytest.mark.parametrize("value", ["81,92", "8,1,92", "8kk", "8.5.1k", "0.0001k"])
def test_a_number_that_is_none_is_refused_where_it_is_set(value: str) -> None:
    with pytest.raises(InputError) as error:
        k2_plan(f"batch.seq={value}")
    assert error.value.source == f"--set batch.seq={value}"
    assert error.value.hint


def test_as_many_stages_as_there_may_be() -> None:
    """The limit `stages` is 1024."""
    assert k2_plan("parallel.pp=16", "parallel.vpp=64").parallel.vpp == 64


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("memory.fixed=2", "write 2GiB or 2GB"),
        ("parallel.world=100", "data parallel"),
        ("activations.recompute=full", "write [full]"),
        ("batch.global_tokens=512", "counts tokens of a step over all devices"),
    ],
)
def test_a_number_that_cannot_be_says_what_it_counts(override: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        k2_plan(override)
    assert hint in str(error.value.hint)


def test_an_unknown_key_in_a_file_has_a_position_and_a_near_miss(tmp_path: Path) -> None:
    text = BUNDLED.read_text().replace("  micro_batch: 1", "  micro_batches: 1")
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if "micro_batches" in row)
    with pytest.raises(SpecError) as error:
        load_plan(str(path))
    unknown = next(p for p in error.value.problems if "micro_batches" in p.message)
    assert (unknown.line, unknown.column, unknown.hint) == (line, 3, "did you mean micro_batch?")


def test_fields_that_disagree_in_a_file_have_positions(tmp_path: Path) -> None:
    text = BUNDLED.read_text().replace("  ep: 16", "  ep: 7")
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if row.startswith("  world:"))
    with pytest.raises(SpecError, match="no multiple of pp x ep x etp") as error:
        load_plan(str(path))
    assert error.value.line == line
    assert len(error.value.problems[0].related) == 3


MODEL = [
    ("kimi-k2", ("parallel.tp=2",), "a mixture of experts over tp needs sp"),
    (
        "kimi-k2",
        ("parallel.tp=128", "parallel.sp=true", "parallel.world=2048"),
        "num_attention_heads 64 can't be divided",
    ),
    (
        "kimi-k2",
        ("parallel.ep=5", "parallel.world=1280", "batch.global_tokens=83886080"),
        "384 can't be divided over ep 5",
    ),
    ("llama-3.1-70b", ("activations.fp8=[]",), "ep needs routed experts"),
    (
        "kimi-k2",
        ("parallel.cp=128", "parallel.cp_comm=a2a", "parallel.world=2048"),
        "num_attention_heads 64 can't be divided over tp x cp = 128",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "message"), MODEL, ids=[m for _, _, m in MODEL])
def test_a_model_that_a_plan_cannot_divide_says_why(name: str, overrides: tuple[str, ...], message: str) -> None:
    plan = k2_plan(*overrides)
    with pytest.raises(InputError, match=message):
        training_memory(run_of(name, plan))


def test_overrides_keep_everything_else() -> None:
    plain, changed = k2_plan(), k2_plan("parallel.vpp=4", "activations.offload=[moe_act]")
    assert isinstance(changed, Plan)
    assert changed.parallel.vpp == 4
    assert changed.activations.offload == ["moe_act"]
    assert set(plain.assumed) - set(changed.assumed) == {"parallel.vpp"}, "what is given is no assumption any more"
    same = {"parallel": plain.parallel, "activations": plain.activations, "assumed": plain.assumed}
    restored = changed.model_copy(update=same)
    assert restored == plain


def test_setting_a_field_to_its_own_value_leaves_the_defaults_defaults() -> None:
    plain, same = k2_plan(), k2_plan("parallel.pp=16")
    assert isinstance(plain, Plan)
    assert isinstance(same, Plan)
    assert same.memory.model_fields_set == plain.memory.model_fields_set
    assert "placeholder_grads" not in same.memory.model_fields_set
