"""How axes fall on devices: each axis divides what it should, and leaves the rest whole."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archcalc.calc.sharding import Shards, local_bytes, local_elements, local_rows, local_size, padded
from archcalc.errors import InputError
from archcalc.files.loader import load_spec
from archcalc.tape import Dim, Storage, Tape, Weight
from archcalc.workload import Workload

SEQ = Dim("seq", 4096, "seq")
HIDDEN = Dim("hidden_size", 7168)
HEADS = Dim("heads", 64, "heads")
DIM = Dim("head_dim", 192)


@pytest.fixture(scope="module")
def k2() -> Tape:
    return load_spec("kimi-k2").trace(Workload(phase="train", batch=1, seq=4096))


def moe_weight(tape: Tape, ending: str) -> Weight:
    segment = next(s for s in tape.segments if any(op.kind == "dispatch" for op in s.ops))
    return next(w for op in segment.ops for w in op.weights if w.path.endswith(ending))


def test_sequence_parallelism_divides_rows_that_no_other_axis_divides() -> None:
    shards = Shards(tp=4, sp=True, cp=2)
    assert local_rows((SEQ,), (HIDDEN,), shards) == 4096 // 8  # cp x tp
    assert local_rows((SEQ,), (HEADS, DIM), shards) == 4096 // 2  # heads take tp: rows only cp
    assert local_bytes(Storage((SEQ,), (HEADS, DIM), "bfloat16"), shards) == 2048 * 16 * 192 * 2


def test_without_sequence_parallelism_hidden_rows_are_replicated_over_tp() -> None:
    whole = local_bytes(Storage((SEQ,), (HIDDEN,), "bfloat16"), Shards())
    assert local_bytes(Storage((SEQ,), (HIDDEN,), "bfloat16"), Shards(tp=8)) == whole == 4096 * 7168 * 2


def test_key_value_heads_are_replicated_past_their_number() -> None:
    assert [local_size(Dim("kv", 8, "kv_heads"), Shards(tp=n)) for n in (1, 2, 8, 16)] == [8, 4, 1, 1]
    with pytest.raises(InputError, match="kv 8 can be neither divided nor replicated over tp 3"):
        local_size(Dim("kv", 8, "kv_heads"), Shards(tp=3))


@pytest.mark.parametrize(
    ("size", "tp", "multiple", "padded_to"),
    [
        (49_159, 2, 64, 49_216),  # vLLM: 769 x 64 (vllm-project/vllm#20843)
        (50_257, 4, 128 * 4, 50_688),  # Megatron-LM: 99 x 512
        (128_256, 8, 64, 128_256),  # it divides: nothing is added
        (32_003, 1, 64, 32_003),  # one device needs no padding
        (32_065, 3, 64, 32_256),  # 168 x 192: the next multiple of 64, 32,128, is none of 3
    ],
)
def test_a_vocabulary_that_does_not_divide_is_padded(size: int, tp: int, multiple: int, padded_to: int) -> None:
    vocab, shards = Dim("vocab_size", size, "vocab"), Shards(tp=tp, vocab_multiple=multiple)
    assert padded(vocab, shards) == padded_to
    assert local_size(vocab, shards) == padded_to // tp


def test_a_state_is_divided_with_its_heads_as_weights_are() -> None:
    # a state of 64 heads of 128 x 192, in fp32: an eighth of the heads on each of 8 devices
    state = Storage((), (HEADS, Dim("key", 128), DIM), "float32")
    assert local_bytes(state, Shards(tp=8)) == 8 * 128 * 192 * 4


@pytest.mark.parametrize(
    ("ending", "tp", "ep", "etp", "elements"),
    [
        ("self_attn.q_b_proj", 8, 1, 1, 1536 * 64 * 192 // 8),
        ("self_attn.kv_b_proj", 8, 1, 1, 512 * 64 * 256 // 8),
        ("self_attn.o_proj", 8, 1, 1, 64 * 128 * 7168 // 8),
        ("shared_experts.gate_proj", 8, 1, 1, 7168 * 2048 // 8),
        # what tensor parallelism leaves whole: the low-rank projections, the router, the norms
        ("self_attn.q_a_proj", 8, 1, 1, 7168 * 1536),
        ("self_attn.kv_a_proj_with_mqa", 8, 1, 1, 7168 * 576),
        ("self_attn.q_a_layernorm", 8, 1, 1, 1536),
        ("mlp.gate", 8, 16, 1, 7168 * 384),
        ("input_layernorm", 8, 16, 1, 7168),
        # routed experts: their number over ep, their width over etp; tp does not touch them
        ("experts.{e}.gate_proj", 8, 16, 1, 24 * 7168 * 2048),
        ("experts.{e}.down_proj", 1, 16, 2, 24 * 7168 * 1024),
    ],
)
def test_each_axis_divides_its_own_weights(k2: Tape, ending: str, tp: int, ep: int, etp: int, elements: int) -> None:
    assert local_elements(moe_weight(k2, ending), Shards(tp=tp, ep=ep, etp=etp)) == elements


def test_routed_rows_follow_imbalance_and_etp_but_hidden_rows_do_not() -> None:
    rows = (SEQ, Dim("k", 8, "routed"))
    assert local_rows(rows, (HIDDEN,), Shards(etp=2)) == 2 * 4096 * 8  # every rank of the group sees all its tokens
    assert local_rows(rows, (HIDDEN,), Shards(imbalance=Fraction("1.25"))) == 40960
    assert local_rows((SEQ,), (HIDDEN,), Shards(imbalance=Fraction(2))) == 4096
    assert local_rows(rows, (HIDDEN,), Shards(imbalance=Fraction(4, 3))) == 43691  # 43690.67 rows, rounded up


def test_fp8_takes_a_byte_an_element_and_a_scale_for_128_of_a_row() -> None:
    # 1 + 4/128 bytes an element where rows are multiples of 128: 1.03125/2 of bf16
    assert local_bytes(Storage((SEQ,), (HIDDEN,), "bfloat16"), Shards(), fp8=True) == 4096 * 7168 * 33 // 32
    # a row of 130 needs two scales
    assert local_bytes(Storage((SEQ,), (Dim("f", 130),), "bfloat16"), Shards(), fp8=True) == 4096 * (130 + 8)


@given(tp=st.sampled_from([1, 2, 4, 8]), cp=st.sampled_from([1, 2, 4]), sp=st.booleans())
def test_all_devices_together_hold_a_divided_storage_exactly_once(tp: int, cp: int, sp: bool) -> None:
    storage = Storage((SEQ,), (HEADS, DIM), "bfloat16")
    assert tp * cp * local_bytes(storage, Shards(tp=tp, cp=cp, sp=sp and tp > 1)) == storage.nbytes
