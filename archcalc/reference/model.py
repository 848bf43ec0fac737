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
from archcalc.reference.places import place, text_path
from archcalc.reference.projector import Mergers, PatchMerger
from archcalc.reference.tower import Projector, Tower
from archcalc.reference.vision import MoonViT3D
from archcalc.reference.vit import ViT


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
        vision: Sequence[Tensor] = (),
        places: Tensor | None = None,
        cache: Cache | None = None,
        absorbed: bool = False,
        last: bool = False,
    ) -> Tensor:
        """Ids [B,N] -> logits [B,N,vocab], or [B,1,vocab] with `last`.

        The first of `vision` [tokens, W] replaces the embeddings at `places`, flat indices into B*N; the others are
        added there after the first layers.
        """
        logits: Tensor = self.lm_head(self.hidden(ids, vision, places, cache, absorbed)[:, -1 if last else 0 :])
        return logits

    def hidden(
        self,
        ids: Tensor,
        vision: Sequence[Tensor] = (),
        places: Tensor | None = None,
        cache: Cache | None = None,
        absorbed: bool = False,
    ) -> Tensor:
        """Final hidden states [B,N,W], normalised."""
        if not vision or places is None:
            x = self.model.embed_tokens(ids)
        else:
            flat = ids.flatten().index_fill(0, places, 0)  # placeholders may lie outside the vocabulary
            x = self.model.embed_tokens(flat).index_copy(0, places, vision[0]).view(*ids.shape, -1)
        out: Tensor = self.model(x, cache, absorbed, vision[1:], places)
        return out

    def predict(self, module: int, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits [B,N,vocab] of multi-token prediction module `module`; see `Backbone.predict`."""
        logits: Tensor = self.lm_head(self.model.predict(module, hidden, ids))
        return logits


TOWERS: dict[str, type[Tower]] = {"moonvit3d": MoonViT3D, "vit": ViT}
"""Kind of a vision tower -> class."""


def tower_of(section: Section, make: Factory) -> Tower:
    """A `vision` section as a module."""
    made: Tower = TOWERS[section.choice("kind", *TOWERS)](section, make)
    return made


def projector_of(section: Section, tower: Tower, levels: int, make: Factory) -> Projector:
    """A `projector` section as a module, for features of so many layers of a tower."""
    group = tower.merge[0] * tower.merge[1]
    if section.choice("kind", "patch_merger", "merger") == "merger":
        return Mergers(section, group, make, levels)
    return PatchMerger(section, group, make)


class MultimodalModel(nn.Module):
    """Text model, vision tower and projector under the checkpoint's names.

    Args:
        body: where the checkpoint keeps the text model's embedding, layers and last norm.

    Attributes:
        text, tower, projector: its parts.
        pictures: path prefixes, each with its final dot, of what runs on pictures alone.
    """

    text: TextModel
    tower: Tower
    projector: Projector

    def __init__(self, text: TextModel, tower: Tower, projector: Projector, body: str) -> None:
        super().__init__()
        self.__dict__.update(text=text, tower=tower, projector=projector)  # they stand below under other names
        if body == "language_model.model":
            place(self, "language_model", text)
        else:
            place(self, body, text.model)
            place(self, "lm_head", text.lm_head)
        seen = {tower.path: tower, **projector.places()}
        for path, module in seen.items():
            place(self, path, module)
        self.pictures = tuple(f"{path}." for path in seen)

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
        """As `TextModel.forward`; patches [P, channels, ..., patch, patch] of all chunks become the tokens at
        `places`.

        One token a merged group; chunks in the order of `grids`, each (frames, patches down, patches across).
        """
        vision = [] if pixels is None else self.projector.project(self.tower.levels(pixels, grids))
        vision = [self.tower.in_order(level, grids) for level in vision]
        logits: Tensor = self.text(ids, vision=vision, places=places, cache=cache, absorbed=absorbed, last=last)
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
    vision, projector = root.section("vision"), root.section("projector")
    tower = tower_of(vision, factory(vision, device, dtype))
    made = projector_of(projector, tower, levels(vision), factory(projector, device, dtype))
    return MultimodalModel(text, tower, made, text_path(vision, "model"))


def levels(vision: Section) -> int:
    """Layers of the tower that hand on their features: the last one, and those that are named."""
    return 1 + len(vision.integers("deepstack_visual_indexes"))


def text_of(model: Model) -> TextModel:
    """The text model of either kind of model."""
    return model if isinstance(model, TextModel) else model.text


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
    path = next(name for name, module in model.named_modules() if module is backbone)
    return tuple(f"{path}.layers.{index}." for index in range(backbone.depth, len(backbone.layers)))


def places_of(ids: Tensor, placeholder: int) -> Tensor:
    """Flat indices where `ids` [B,N] holds the placeholder."""
    return (ids.flatten() == placeholder).nonzero().flatten()


def factory(section: Section, device: str = "meta", dtype: str | None = None, options: Options = COUNTED) -> Factory:
    """For the modules of a section, in its own dtype by default."""
    own = section.choice("dtype", "bfloat16", "float16", "float32")
    return Factory(device=torch.device(device), dtype=getattr(torch, dtype or own), options=options)
