"""The whole twin from a spec's plain mapping: text model, and vision tower and projector if the spec has
them.

Module names are the public checkpoint's, so `state_dict` keys are checkpoint names, except that the routed
experts' matrices are stacked ([E, out, in] under `...mlp.experts.gate_proj.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from archcalc.reference.cache import Cache
from archcalc.reference.decoder import Backbone
from archcalc.reference.factory import Factory
from archcalc.reference.fields import Section
from archcalc.reference.kernels.options import COUNTED, Options
from archcalc.reference.patterns import LayerKind
from archcalc.reference.pixels import Grid
from archcalc.reference.projector import PatchMerger
from archcalc.reference.vision import MoonViT3D


class TextModel(nn.Module):
    """Backbone and head; with `tie_word_embeddings` the head's weight is the embedding's.

    Args:
        section: the spec's `backbone` section.
        kinds: see `Backbone`.
    """

    def __init__(self, section: Section, make: Factory, kinds: Sequence[LayerKind] | None = None) -> None:
        super().__init__()
        self.model = Backbone(section, make, kinds)
        hidden, vocab = section.integer("hidden_size"), section.integer("vocab_size")
        self.lm_head = make.linear(hidden, vocab, bias=section.flag("lm_head_bias"))
        if section.flag("tie_word_embeddings"):
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        ids: Tensor,
        *,
        vision: Tensor | None = None,
        places: Tensor | None = None,
        cache: Cache | None = None,
        absorbed: bool = False,
        last: bool = False,
    ) -> Tensor:
        """Ids [B,N] -> logits [B,N,vocab], or [B,1,vocab] with `last`.

        `vision` [tokens, W] replaces the embeddings at `places`, flat indices into B*N.
        """
        logits: Tensor = self.lm_head(self.hidden(ids, vision, places, cache, absorbed)[:, -1 if last else 0 :])
        return logits

    def hidden(
        self,
        ids: Tensor,
        vision: Tensor | None = None,
        places: Tensor | None = None,
        cache: Cache | None = None,
        absorbed: bool = False,
    ) -> Tensor:
        """Final hidden states [B,N,W], normalised."""
        if vision is None or places is None:
            x = self.model.embed_tokens(ids)
        else:
            flat = ids.flatten().index_fill(0, places, 0)  # placeholders may lie outside the vocabulary
            x = self.model.embed_tokens(flat).index_copy(0, places, vision).view(*ids.shape, -1)
        out: Tensor = self.model(x, cache, absorbed)
        return out

    def predict(self, module: int, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits [B,N,vocab] of multi-token prediction module `module`; see `Backbone.predict`."""
        logits: Tensor = self.lm_head(self.model.predict(module, hidden, ids))
        return logits


class MultimodalModel(nn.Module):
    """Text model, vision tower and projector under the checkpoint's names."""

    def __init__(self, language_model: TextModel, vision_tower: MoonViT3D, mm_projector: PatchMerger) -> None:
        super().__init__()
        self.language_model = language_model
        self.vision_tower = vision_tower
        self.mm_projector = mm_projector

    def forward(
        self,
        ids: Tensor,
        *,
        pixels: Tensor | None = None,
        grids: Sequence[Grid] = (),
        places: Tensor | None = None,
        cache: Cache | None = None,
        absorbed: bool = False,
        last: bool = False,
    ) -> Tensor:
        """As `TextModel.forward`; patches [P, channels, patch, patch] of all chunks become the tokens at
        `places`.

        One token a merged group; chunks in the order of `grids`, each (frames, patches down, patches across).
        """
        vision = None if pixels is None else self.mm_projector(self.vision_tower(pixels, grids))
        logits: Tensor = self.language_model(
            ids, vision=vision, places=places, cache=cache, absorbed=absorbed, last=last
        )
        return logits


Model = TextModel | MultimodalModel


def build(spec: Mapping[str, object], *, device: str = "meta", dtype: str | None = None) -> Model:
    """The twin of a spec.

    Args:
        spec: plain mapping of a whole spec (`yaml.safe_load`, `Spec.model_dump()`).
        device: `meta` for shapes only, `cpu` for numbers (weights are random).
        dtype: torch dtype name for all weights; by default each section's own. The router's bias is always
            float32.

    Raises:
        InputError: for a missing or unknown key, naming it.
    """
    root = Section(spec, "spec")
    backbone = root.section("backbone")
    text = TextModel(backbone, factory(backbone, device, dtype))
    if not root.has("vision") and not root.has("projector"):
        return text
    tower = MoonViT3D(root.section("vision"), factory(root.section("vision"), device, dtype))
    projector, group = root.section("projector"), tower.merge[0] * tower.merge[1]
    return MultimodalModel(text, tower, PatchMerger(projector, group, factory(projector, device, dtype)))


def text_of(model: Model) -> TextModel:
    """The text model of either kind of model."""
    return model if isinstance(model, TextModel) else model.language_model


def new_cache(model: Model, batch: int, capacity: int, *, dtype: torch.dtype | None = None) -> Cache:
    """An empty cache for `capacity` tokens of `batch` sequences, on the model's device, in its dtype by
    default."""
    backbone = text_of(model).model
    weight = backbone.embed_tokens.weight
    attentions = list(backbone.attentions())
    rows, windows = [each.cached() for each in attentions], [each.window for each in attentions]
    states, dtype = [each.states() for each in attentions], dtype or weight.dtype
    return Cache(rows, batch, capacity, device=weight.device, dtype=dtype, windows=windows, states=states)


def prediction_paths(model: Model) -> tuple[str, ...]:
    """Module path prefixes of the multi-token prediction modules, each with its final dot."""
    backbone = text_of(model).model
    prefix = "" if isinstance(model, TextModel) else "language_model."
    return tuple(f"{prefix}model.layers.{index}." for index in range(backbone.depth, len(backbone.layers)))


def places_of(ids: Tensor, placeholder: int) -> Tensor:
    """Flat indices where `ids` [B,N] holds the placeholder."""
    return (ids.flatten() == placeholder).nonzero().flatten()


def factory(section: Section, device: str = "meta", dtype: str | None = None, options: Options = COUNTED) -> Factory:
    """For the modules of a section, in its own dtype by default."""
    own = section.choice("dtype", "bfloat16", "float16", "float32")
    return Factory(device=torch.device(device), dtype=getattr(torch, dtype or own), options=options)
