"""Training mixtures with latents, and with a bias that is a parameter and is not trained."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from archcalc.calc.sharding import Shards
from archcalc.documents.weights import checkpoint_rows
from archcalc.tape import Tape
from archcalc.training.memory import training_memory
from archcalc.training.transient import routed_copies
from archcalc.workload import Workload
from tests.support import TINY, spec_of
from tests.training.test_small_models import planned

T = 64


def tape(**changes: Any) -> Tape:
    """One layer of TINY's mixture."""
    plain = one_layer(**changes)
    return spec_of(plain).trace(Workload(phase="train", seq=T))


def one_layer(**changes: Any) -> dict[str, Any]:
    plain = deepcopy(TINY)
    moe = plain["backbone"]["ffn"]["moe"] | changes
    layers = [{"count": 1, "attention": "gqa", "ffn": "moe"}]
    plain["backbone"] |= {
        "layers": layers,
        "num_hidden_layers": 1,
        "max_position_embeddings": 8192,
        "ffn": {"moe": moe},
    }
    return plain


def test_a_parameter_that_gets_no_gradient_takes_what_a_buffer_takes() -> None:
    ways = ("buffer", "parameter")
    specs = [spec_of(one_layer(topk_method="noaux_tc", correction_bias=way)) for way in ways]
    one, other = (training_memory(planned(spec))[0].static for spec in specs)
    assert one == other
    assert one.buffers == 4 * 6  # fp32, an element for each of 6 experts
    bufferlike = [checkpoint_rows(spec.trace(Workload()).weights(), "adamw") for spec in specs]
    assert bufferlike[0] == bufferlike[1]


@pytest.mark.parametrize(("latent", "width"), [(None, 8), (5, 5)])
def test_routed_copies_are_as_wide_as_the_latent_and_the_shared_output_as_the_hidden_state(
    latent: int | None, width: int
) -> None:
    segment = next(s for s in tape(n_shared_experts=1, routed_expert_hidden_size=latent).segments if s.indices)
    # one device: tokens sorted for their experts and what comes back, 2 experts a token; the shared expert's output
    assert routed_copies(segment, Shards(), set()) == 2 * (2 * T * width * 2) + T * 8 * 2
