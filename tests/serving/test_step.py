"""One step of an engine: every number by hand, in elements a token where a sum is short.

T tokens of a step, in bf16: a tensor of n features takes 2·n·T bytes. H hidden, F feed-forward width, I an expert's.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archcalc.files.model import Spec
from archcalc.serving.deployment import Deployment
from archcalc.serving.engine import Activation, Bounds, MoeKernel, MoeKernels, Sampler
from archcalc.serving.overhead import Load, step_of
from archcalc.serving.step import Peak, Step, step_peak
from tests.serving.deployed import engine, gpu, model
from tests.support import data, spec_of, tiny
from tests.towers import beside

T = 8192


def how(kernel: MoeKernel | None = None, *, chunk: int | None = None, latents: int = 0) -> Activation:
    """vLLM's activation with one kernel for all experts, and so many latents expanded at once."""
    kinds = engine().activation.moe_kernels
    if kernel is not None:
        kinds = MoeKernels(unquantized=[kernel], float8=[kernel], packed=[kernel], chunk_tokens=chunk)
    return engine().activation.model_copy(update={"moe_kernels": kinds, "latent_tokens": latents})


def peak(
    of: Spec | str,
    tokens: int = T,
    *,
    by: Activation | None = None,
    stage: range | None = None,
    sequences: int = 1024,
    sampler: Sampler = "torch",
    context: int = 131_072,
    page: int = 64,
    encoder: bool = False,
    **where: Any,
) -> Peak:
    served = model(of)
    depth = sum(s.count for s in served.tape.segments if s.part == "backbone" and s.indices)
    step = Step(tokens=tokens, sequences=sequences, sampler=sampler, context=context, page=page, encoder=encoder)
    return step_peak(served.model, served.scheme, Deployment(**where), step, by or how(), stage or range(depth), depth)


def exactly(nbytes: int) -> Bounds:
    return Bounds(nbytes, nbytes)


def layers_apart() -> Spec:
    """K2 with the experts of its first layer in bf16, the others as released."""
    content = data("kimi-k2")
    apart = {"match": "*.layers.1.mlp.experts.*", "store": {"scheme": "plain", "dtype": "bfloat16"}}
    rest = [{"match": match, "store": store} for match, store in content["storage"].items() if match != "default"]
    default = {"match": "default", "store": content["storage"]["default"]}
    return spec_of(content | {"storage": [apart, *rest, default], "claims": []})


def test_layers_that_store_experts_differently_each_have_their_kernel() -> None:
    # T·8 rows of two workspaces of H = 7168 for the first layer, in bf16, and fewer elements for those in FP8
    kinds = MoeKernels(unquantized=["modular"], float8=["fused_experts"], packed=["separate"])
    by = engine().activation.model_copy(update={"moe_kernels": kinds})
    assert peak(layers_apart(), by=by, tp=8).kept == exactly(T * 8 * 2 * 7168 * 2)
    assert peak("kimi-k2", by=by, tp=8).kept == exactly(0)


# ---------------------------------------------------------------------------------------------- dense layers


@pytest.mark.parametrize(
    ("tp", "elements"),
    [
        # at the gated activation, F, beside gate and up, 2·F: the layer's input, the sum after attention and its norm,
        # which callers hold: 3·28,672 + 3·8192
        (1, 110_592),
        (2, 67_584),  # 3·14,336 + 3·8192
        (4, 46_080),  # 3·7168 + 3·8192
        # at the down projection: its input F/8 = 3584 and its result H beside those three: 3584 + 4·8192
        # (at the activation 3·3584 + 3·8192 = 35,328 are less)
        (8, 36_352),
    ],
)
def test_a_dense_layer_holds_what_callers_pass_on_and_what_its_feed_forward_makes(tp: int, elements: int) -> None:
    assert peak("llama-3.1-70b", tp=tp).layers == exactly(2 * elements * T)


def test_attended_blocks_stand_beside_the_residual_all_the_while() -> None:
    # 80 layers in blocks of 10: eight outputs of H = 8192, and all else as in a plain layer
    content = data("llama-3.1-70b")
    content["backbone"]["attn_res_block_size"] = 10
    for tp, elements in ((1, 110_592), (8, 36_352)):
        assert peak(spec_of(content), tp=tp).layers == exactly(2 * (elements + 8 * 8192) * T)


def test_two_key_value_heads_are_copied_on_sixteen_devices() -> None:
    # a wide attention, hidden 8: 16 heads of queries, two of keys and two of values of 64 each
    content = tiny()
    content["backbone"]["layers"] = [{"count": 3, "attention": "gqa", "ffn": "dense"}]
    content["backbone"]["ffn"].pop("moe")
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 16
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 64}
    wide = spec_of(content)
    # the core: the layer's input and its norm, 2·8; rotated query, rotated key and value of one head each; its result
    assert peak(wide, 100, tp=16).layers == exactly(2 * (2 * 8 + 4 * 64) * 100)
    # rotating the queries of 16 heads on one device: 2·8, two of 1024, keys and values 2·128 - and the core reads
    # 1024 + 2·128 and writes 1024
    assert peak(wide, 100).layers == exactly(2 * (2 * 8 + 2 * 1024 + 2 * 128) * 100)


def test_attentions_input_is_held_until_its_output_is_added() -> None:
    # a narrow feed-forward, F = 1, and attention, 2: only hidden states of 8 count
    content = tiny()
    content["backbone"]["layers"] = [{"count": 3, "attention": "gqa", "ffn": "dense"}]
    content["backbone"]["ffn"].pop("moe")
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 1
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    # (at the down projection: 1 of its input, its output and the three that are held: 4·8 + 1)
    assert peak(spec_of(content), 100).layers == exactly(2 * (4 * 8 + 1) * 100)


@pytest.mark.parametrize(("name", "hidden"), [("llama-3.1-70b", 8192), ("k25", 7168)])
def test_a_pipeline_stage_holds_two_more_tensors_of_hidden_states(name: str, hidden: int) -> None:
    # hidden states and residual, received or sent; they are whole on every device of the stage
    stage = range(10, 20)
    one, two = (peak(name, stage=stage, tp=8, pp=pp) for pp in (1, 2))
    more = 2 * hidden * T * 2
    assert two.layers == one.layers + exactly(more)
    assert (two.kept, two.vision, two.sampling) == (one.kept, one.vision, one.sampling)


# ------------------------------------------------------------------------------------------------- experts

# the layer's input, the sum after attention, its norm, which is the experts' input, the shared expert's output, and the
# sum of the routed ones
K25_SIDE = 5 * 7168
INT4 = 2 * T * K25_SIDE


@pytest.mark.parametrize(
    ("kernel", "elements"),
    [
        # I = 2048 / 8; caches 1 and 3 share the larger of 2·256 and 7168, cache 2 holds 256
        ("fused_experts", 7168 + 256),
        ("separate", 512 + 256 + 7168),
    ],
)
def test_the_kernel_of_packed_experts_holds_caches_for_eight_rows_a_token(kernel: MoeKernel, elements: int) -> None:
    found = peak("k25", by=how(kernel), tp=8)
    assert found.layers == exactly(INT4 + T * 8 * elements * 2)
    assert found.kept == exactly(0)


@pytest.mark.parametrize(
    ("kernel", "taken", "kept"),
    [
        ("fused_experts", 24 + 12, 0),  # max(2·12, 8) and 12
        ("separate", 24 + 12 + 8, 0),
        ("modular", 0, 12 + 24),  # max(12, 8) and max(2·12, 8)
    ],
)
def test_experts_wider_than_the_model_count_by_their_width(kernel: MoeKernel, taken: int, kept: int) -> None:
    # H = 8, I = 12, two experts a token
    content = tiny()
    content["backbone"]["ffn"]["moe"] |= {"moe_intermediate_size": 12, "n_shared_experts": 0}
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 4
    found = peak(spec_of(content), 100, by=how(kernel), sequences=1)
    # without a shared expert: the layer's input, the sum after attention, the experts' input and their sum
    assert found.kept == exactly(2 * 100 * 2 * kept)
    if taken:
        assert found.layers == exactly(2 * 100 * (4 * 8 + 2 * taken))


def test_two_names_of_a_kernel_are_the_two_ends() -> None:
    # until 0.21 by marlin_moe.py: 8192·8·(max(2·256, 7168) + 256)·2 B; then two workspaces of 7168 that stay, so that
    # the largest is where the shared expert's output is added: one tensor of hidden states more
    found = peak("k25", by=engine().activation.model_copy(update={"latent_tokens": 0}), tp=8)
    assert found.layers == Bounds(INT4 + 973_078_528, INT4 + 2 * T * 7168)
    assert found.kept == Bounds(0, 8192 * 8 * (7168 + 7168) * 2)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        # released in FP8: copies of both operands in FP8, with an fp32 scale for 128 elements: the input 7168 a token,
        # and the activations, 2048 / 8 = 256 for each of eight routed rows
        ("kimi-k2", T * (7168 + 4 * 56) + T * 8 * (256 + 4 * 2)),
        ("k25", 0),
    ],
)
def test_fp8_experts_read_copies_of_their_operands(name: str, more: int) -> None:
    found = peak(name, by=how("fused_experts"), tp=8)
    assert found.layers == exactly(INT4 + 973_078_528 + more)


@pytest.mark.parametrize(
    ("kernel", "caches", "copies"),
    [
        # I = 300 over one device, in FP8 300 and three scales; H = 8, in FP8 8 and one
        ("fused_experts", 600 + 300, 300 + 4 * 3),
        ("separate", 600 + 300 + 8, 300 + 4 * 3),
        ("modular", 0, 0),  # workspaces hold the second operand
    ],
)
def test_a_copy_in_fp8_has_a_scale_for_128_elements_or_the_rest_of_them(
    kernel: MoeKernel, caches: int, copies: int
) -> None:
    content = tiny()
    content["backbone"]["ffn"]["moe"] |= {"moe_intermediate_size": 300, "n_shared_experts": 0}
    content["storage"] = {
        "default": {"scheme": "plain", "dtype": "bfloat16"},
        "routed_expert": {"scheme": "fp8-block", "block_size": [1, 100], "scale_dtype": "float32"},
    }
    found = peak(spec_of(content), 100, by=how(kernel), stage=range(1, 3), sequences=1)
    if kernel == "modular":
        # the largest of them is the dense layer's or attention's, and not here; the workspaces: 300 and 600
        assert found.kept == exactly(2 * 100 * 2 * (300 + 600))
    else:
        assert found.layers == exactly(2 * 100 * (4 * 8 + 2 * caches) + 100 * (8 + 4) + 100 * 2 * copies)


def test_whole_experts_of_an_expert_parallel_device_are_as_wide_as_they_are() -> None:
    # I = 2048: max(4096, 7168) + 2048
    found = peak("k25", by=how("fused_experts"), tp=8, ep=8)
    assert found.layers == exactly(INT4 + T * 8 * (7168 + 2048) * 2)


@pytest.mark.parametrize(
    ("name", "tokens", "chunk"),
    [
        ("kimi-k2", 65_536, 32_768),  # FP8: 32,768 tokens at a time
        ("kimi-k2", 32_768, 32_768),
        ("kimi-k2", 1000, 1000),
        ("k25", 65_536, 65_536),  # packed: the Marlin kernel takes all of them
    ],
)
def test_triton_kernels_take_32768_tokens_at_a_time(name: str, tokens: int, chunk: int) -> None:
    fp8 = tokens * (7168 + 4 * 56) + chunk * 8 * (256 + 4 * 2) if name == "kimi-k2" else 0
    found = peak(name, tokens, by=how("fused_experts", chunk=32_768), tp=8)
    assert found.layers == exactly(2 * tokens * K25_SIDE + fp8 + chunk * 8 * (7168 + 256) * 2)


def test_the_modular_kernel_takes_all_tokens_at_once() -> None:
    assert peak("kimi-k2", 65_536, by=how("modular", chunk=32_768), tp=8).kept == exactly(65_536 * 8 * 14_336 * 2)


def test_a_device_sees_the_tokens_of_all_data_parallel_groups_and_holds_them_twice() -> None:
    # 1024 tokens each of 8 groups: their hidden states gathered and the results before they are scattered,
    # 2·8192·7168; experts are whole: 8192·8·(7168 + 2048)
    gathered = 2 * 8192 * 7168 * 2
    found = peak("k25", 1024, by=how("fused_experts"), dp=8, ep=8)
    assert found.layers == exactly(2 * 1024 * K25_SIDE + gathered + 8192 * 8 * (7168 + 2048) * 2)
    kept = peak("k25", 1024, by=how("modular"), dp=8, ep=8).kept
    assert kept == exactly(8192 * 8 * (7168 + 7168) * 2)


def test_a_workspace_that_is_kept_lives_through_layers_and_sampler() -> None:
    found = peak("k25", by=how("modular"), tp=8)
    assert found.sampling.high > found.layers.high
    assert found.bounds.high == found.sampling.high + found.kept.high
    few = peak("k25", by=how("modular"), tp=8, sequences=1)
    assert few.bounds.high == few.layers.high + few.kept.high


def test_the_range_of_two_kernels_runs_from_the_smaller_to_the_larger() -> None:
    # one expert a layer that is wider than the hidden size, I = 32·H, in FP8: fused_experts holds max(2·I, H) + I and a
    # copy in FP8, modular I + 2·I and no copy
    content = tiny()
    content["backbone"]["layers"] = [{"count": 3, "attention": "gqa", "ffn": "moe"}]
    content["backbone"]["ffn"].pop("dense")
    content["backbone"]["ffn"]["moe"] |= {"moe_intermediate_size": 256, "n_shared_experts": 0}
    fp8 = {"scheme": "fp8-block", "block_size": [8, 8], "scale_dtype": "float32"}
    content["storage"] = {"default": {"scheme": "plain", "dtype": "bfloat16"}, "routed_expert": fp8}
    kinds = engine().activation.moe_kernels.model_copy(
        update={"float8": ["fused_experts", "modular"], "chunk_tokens": None}
    )
    by = engine().activation.model_copy(update={"moe_kernels": kinds, "latent_tokens": 0})
    found = peak(spec_of(content), 1000, sequences=1, by=by)
    assert found.layers.low > found.layers.high + found.kept.high
    assert found.bounds == Bounds(found.layers.high + found.kept.high, found.layers.low)


def test_a_stage_without_experts_has_no_workspace() -> None:
    # k25's first layer is dense: at the down projection its input 18,432 / 8 beside its result and the three that
    # callers hold
    found = peak("k25", by=how("modular"), stage=range(1), tp=8)
    assert found == Peak(exactly(2 * (18_432 // 8 + 4 * 7168) * T), exactly(0), exactly(0), exactly(0))


# ------------------------------------------------------------------------------------------------- latents


@pytest.mark.parametrize(
    ("context", "sequences", "page", "tokens"),
    [
        (131_072, 1, 64, 65_536),
        (8192, 1, 64, 65_536),  # eight contexts
        (1000, 1, 64, 8000),
        (1000, 100, 64, 25_600),  # four pages a sequence
        (1000, 1024, 16, 65_536),  # the same, 65,536 at most
        (1000, 1024, 128, 131_072),  # but a page a sequence
    ],
)
@pytest.mark.parametrize(("tp", "heads"), [(8, 8), (1, 64)])
def test_latents_are_expanded_for_65536_tokens_or_what_a_step_may_need(
    context: int, sequences: int, page: int, tokens: int, tp: int, heads: int
) -> None:
    # heads · (128 position-free key features + 128 value features), beside the residual of 16 tokens
    found = peak(
        "k25", 16, by=how("fused_experts", latents=65_536), context=context, sequences=sequences, page=page, tp=tp
    )
    assert found.layers == exactly(16 * 7168 * 2 + tokens * heads * (128 + 128) * 2)


def test_attention_without_latents_expands_none() -> None:
    assert peak("llama-3.1-70b", by=how(latents=65_536)) == peak("llama-3.1-70b", by=how())


# ------------------------------------------------------------------------------------------------- sampler


@pytest.mark.parametrize(
    ("sequences", "tokens", "rows", "each"),
    [
        (1024, T, 1024, Bounds(38, 39)),
        (128, T, 128, Bounds(38, 39)),
        (127, T, 127, Bounds(50, 51)),
        (1024, 64, 64, Bounds(50, 51)),  # no step has more sequences than tokens
    ],
)
@pytest.mark.parametrize("tp", [1, 8])
def test_torch_sorts_whole_vocabularies_on_every_device(
    sequences: int, tokens: int, rows: int, each: Bounds, tp: int
) -> None:
    # beside the step's hidden states and those of the sampled tokens
    states = 2 * 8192 * (tokens + rows)
    found = peak("llama-3.1-70b", tokens, sequences=sequences, tp=tp).sampling
    assert found == Bounds(*(states + rows * 128_256 * n for n in each))


def test_a_heads_bias_changes_nothing_of_what_it_reads() -> None:
    # 100 tokens and 4 sampled ones of 8 features, and 4 rows of 32 words
    found = peak(spec_of(tiny(lm_head_bias=True)), 100, sequences=4).sampling
    states = 2 * 8 * (100 + 4)
    assert found == Bounds(states + 4 * 32 * 50, states + 4 * 32 * 51)


def test_kernels_that_do_not_sort_take_6_to_14_bytes_a_logit() -> None:
    found = peak("llama-3.1-70b", sampler="flashinfer", tp=8).sampling
    states = 2 * 8192 * (T + 1024)
    assert found == Bounds(states + 1024 * 128_256 * 6, states + 1024 * 128_256 * 14)


def test_logits_are_as_wide_as_the_padded_vocabulary() -> None:
    # 32 words over 3 devices: 192
    content = tiny()
    content["backbone"]["attention"]["gqa"] |= {"num_attention_heads": 6, "num_key_value_heads": 3}
    content["backbone"]["ffn"]["dense"]["intermediate_size"] = 12
    content["backbone"]["ffn"]["moe"]["moe_intermediate_size"] = 12
    found = peak(spec_of(content), 500, sequences=200, tp=3).sampling
    assert found.low == 2 * 8 * 700 + 200 * 192 * 38
    assert peak(spec_of(content), 500, sequences=200).sampling.low == 2 * 8 * 700 + 200 * 32 * 38


def test_only_the_last_stage_samples() -> None:
    assert peak("llama-3.1-70b", stage=range(40)).sampling == exactly(0)
    assert peak("llama-3.1-70b", stage=range(40, 80)).sampling == peak("llama-3.1-70b").sampling


# -------------------------------------------------------------------------------------------------- vision
# k25's largest image: 16,384 x 16,384 pixels are 1170 x 1170 patches of 14, scaled down to 16,384 of them, 128 x 128;
# merged 2 x 2 they are 4096 tokens. A step of 8192 tokens holds two.

OUTPUTS = 2 * 7168 * T


def test_what_the_tower_makes_is_there_through_layers_and_sampler() -> None:
    seeing, blind = (peak("k25", by=how("fused_experts"), encoder=encoder, tp=8) for encoder in (True, False))
    assert seeing.layers.low - blind.layers.low == OUTPUTS
    assert seeing.sampling.low - blind.sampling.low == OUTPUTS  # the runner clears its cache when it has sampled
    assert blind.vision == exactly(0)


def test_a_divided_tower_runs_all_images_and_a_whole_one_its_share_of_them() -> None:
    # the residual's sum beside its terms, 3·1152, of 32,768 patches: qkv and fc0 are divided by 8
    assert peak("k25", encoder=True, tp=8).vision == exactly(OUTPUTS + 2 * 3 * 1152 * 32_768)
    # residual, the feed-forward's 4304 and its activation, of one image's 16,384 patches
    whole = peak("k25", encoder=True, tp=8, vision="replicated").vision
    assert whole == exactly(OUTPUTS + 2 * (1152 + 2 * 4304) * 16_384)


def test_a_step_shorter_than_an_image_holds_one_all_the_same() -> None:
    # the projector's second linear: 4608 in, 7168 out for 4096 tokens, 48.2 million elements; the tower's sum
    # 3·1152·16,384, 56.6 million
    found = peak("k25", 1000, encoder=True, tp=8)
    assert found.vision == exactly(2 * 7168 * 4096 + 2 * 3 * 1152 * 16_384)


def test_an_engine_runs_no_more_images_than_sequences() -> None:
    one, two = (peak("k25", sequences=n, encoder=True, tp=8).vision.low for n in (1, 2))
    assert (one, two) == (OUTPUTS + 2 * 3 * 1152 * 16_384, OUTPUTS + 2 * 3 * 1152 * 32_768)


def test_features_for_the_backbones_first_layers_are_kept_too() -> None:
    # Qwen3-VL's largest image is 4096 x 4096 px: 256 x 256 patches, 16,384 tokens, more than a step. Each has a hidden
    # state of 4096 and three more for the first three layers. The tower: residual, 4304, its activation
    seen = spec_of(beside(data("llama-3.1-70b"), "qwen3-vl-8b") | {"claims": []})
    assert peak(seen, encoder=True).vision == exactly(4 * 2 * 4096 * 16_384 + 2 * (1152 + 2 * 4304) * 65_536)


def test_later_stages_see_no_images() -> None:
    seeing, blind = (peak("k25", stage=range(30, 61), encoder=encoder, tp=8) for encoder in (True, False))
    assert seeing == blind


def test_a_model_without_a_tower_runs_none() -> None:
    assert peak("llama-3.1-70b", encoder=True) == peak("llama-3.1-70b")


# ------------------------------------------------------------------------------------------- which step it is


@pytest.mark.parametrize(
    ("load", "tokens"),
    [
        # V0 holds a prompt of the whole context, which is its max_model_len
        (Load(context=16_384), 16_384),
        (Load(context=1024), 2048),
        (Load(context=2049), 2049),
        # above 32,768 it cuts prompts into steps of 2048
        (Load(context=32_768), 32_768),
        (Load(context=32_769), 2048),
        # told a number of tokens it cuts them too
        (Load(context=16_384, batched_tokens=512), 512),
    ],
)
def test_a_step_of_v0_holds_a_whole_prompt(load: Load, tokens: int) -> None:
    assert step_of(engine("vllm-v0"), gpu("h100"), load).tokens == tokens


@pytest.mark.parametrize("by", ["vllm", "vllm-0.8", "sglang"])
def test_other_engines_cut_prompts_of_any_length(by: str) -> None:
    assert {step_of(engine(by), gpu("h100"), Load(context=n)).tokens for n in (1, 16_384, 1_000_000)} == {8192}


def test_a_step_is_what_the_load_says_or_the_device() -> None:
    found = step_of(engine(), gpu("h100"), Load(context=1))
    assert found == Step(tokens=8192, sequences=1024, sampler="flashinfer", context=1, page=64, encoder=True)
    told = Load(context=1, batched_tokens=100, max_num_seqs=3, sampler="torch", block_size=16, language_only=True)
    assert step_of(engine(), gpu("h100"), told) == Step(
        tokens=100, sequences=3, sampler="torch", context=1, page=16, encoder=False
    )


# ---------------------------------------------------------------------------------------------- whatever it is


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["k25", "kimi-k2", "llama-3.1-70b", "gemma-3-27b"]),
    tokens=st.integers(1, 70_000),
    more=st.integers(0, 70_000),
    by=st.sampled_from(["vllm", "vllm-0.8", "vllm-v0", "sglang"]),
    tp=st.sampled_from([1, 8]),
)
def test_more_tokens_never_take_less(name: str, tokens: int, more: int, by: str, tp: int) -> None:
    assume((tokens < 128) == (tokens + more < 128))  # torch sorts 128 rows of logits in fewer bytes each than 127
    profile = engine(by).activation
    few, many = (peak(name, n, by=profile, encoder=True, tp=tp).bounds for n in (tokens, tokens + more))
    assert few.low <= few.high
    assert few.low <= many.low
    assert few.high <= many.high


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["k25", "llama-3.1-70b"]),
    tokens=st.integers(1, 20_000),
    tp=st.sampled_from([1, 2, 4, 8]),
)
def test_a_device_of_a_larger_group_never_holds_more(name: str, tokens: int, tp: int) -> None:
    few, many = (peak(name, tokens, encoder=True, tp=n).bounds for n in (tp, 2 * tp))
    assert many.low <= few.low
    assert many.high <= few.high
