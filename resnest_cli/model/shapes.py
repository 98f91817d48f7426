"""What a state dict's shapes tell: which ResNeSt it is, and what does not fit."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from resnest_cli.card import ModelCard
from resnest_cli.errors import CheckpointError
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.variants import (
    EXPANSION,
    STAGE_BASES,
    VARIANTS,
    Architecture,
    Variant,
    get_variant,
)

log = logging.getLogger(__name__)

State = dict[str, Tensor]


def identify(state: State, path: Path, model: str | None = None) -> ModelCard:
    """The card of a state dict that carries none.

    The shapes leave one question open: whether pooling comes before the 3x3 convolution. Then
    `model` decides, or a variant's name in the file's, or else it is the variant listed first.

    Raises:
        CheckpointError: the shapes are no published variant's, or not those of `model`.
    """
    fitting = fitting_variants(state)
    shape = _shape(state)
    if model is not None:
        return ModelCard.of_variant(get_variant(model), **shape)
    if not fitting:
        raise CheckpointError(
            f"'{path}' holds no published ResNeSt, and no card says what it holds: "
            f"{infer_architecture(state) or 'its parameters are of another network'}"
        )
    named = [v for v in fitting if v.name in path.name or (v.alias and v.alias in path.name)]
    variant = max(named, key=lambda v: len(v.name), default=fitting[0])
    if len(fitting) > 1 and not named:
        others = ", ".join(v.name for v in fitting[1:])
        log.warning(
            "'%s' is taken for %s; %s has the same shapes (choose with --model)",
            path,
            variant.name,
            others,
        )
    log.info("'%s' looks like %s", path, variant.name)
    return ModelCard.of_variant(variant, **shape)


def fitting_variants(state: State) -> list[Variant]:
    """The variants whose architecture has a state dict's shapes."""
    found = infer_architecture(state)
    if found is None:
        return []
    same = {found, Architecture(**{**vars(found), "avd_first": True})}
    return [v for v in VARIANTS if v.architecture in same]


def infer_architecture(state: State) -> Architecture | None:
    """The architecture that gives a state dict's shapes; None if no ResNeSt does.

    The 3x3 convolution of width w has w * radix filters of w / (cardinality * radix) channels.
    """
    try:
        conv = state["layer1.0.conv2.conv.weight"]
        base = state["layer1.0.conv3.weight"].shape[0] // EXPANSION
        width = state["layer1.0.conv1.weight"].shape[0]
        radix = conv.shape[0] // width
        cardinality = width // (conv.shape[1] * radix)
        return Architecture(
            blocks=(_depth(state, 1), _depth(state, 2), _depth(state, 3), _depth(state, 4)),
            stem_width=state["conv1.0.weight"].shape[0] * STAGE_BASES[0] // base,
            radix=radix,
            cardinality=cardinality,
            base_width=width * STAGE_BASES[0] // (cardinality * base),
            width=base / STAGE_BASES[0],
        )
    except (KeyError, IndexError, ZeroDivisionError):
        return None


def mismatches(state: State, card: ModelCard) -> list[str]:
    """What of a state dict does not fit a card's network, a phrase each."""
    with torch.device("meta"):
        network = ResNeSt(
            card.architecture, num_classes=card.num_classes, in_channels=card.in_channels
        )
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    optional = {k for k in expected if k.endswith("num_batches_tracked")}
    missing = [f"{k} is missing" for k in expected.keys() - found.keys() - optional]
    surplus = [f"{k} is surplus" for k in found.keys() - expected.keys()]
    differing = [
        f"{k} is {found[k]}, not {shape}"
        for k, shape in expected.items()
        if k in found and found[k] != shape
    ]
    return sorted(missing) + sorted(differing) + sorted(surplus)


def explain_mismatch(path: Path, card: ModelCard, problems: list[str], state: State) -> str:
    """Two lines: what does not fit, and which variant the file looks like."""
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if problems[3:] else "")
    looks = [v.name for v in fitting_variants(state)]
    hint = f"it looks like {' or '.join(looks)}" if looks else "it looks like no published variant"
    use = f": use --model {looks[0]}" if looks and card.name not in looks else ""
    return f"'{path}' does not fit {card.name}: {shown}\n{hint}{use}"


def adapt_input(filters: Tensor, channels: int) -> Tensor:
    """The stem's first filters (out, in, 3, 3) for another number of input channels."""
    if channels == 1:
        return filters.sum(1, keepdim=True)
    repeats = -(-channels // filters.shape[1])
    repeated = filters.repeat(1, repeats, 1, 1)[:, :channels]
    return repeated * (filters.shape[1] / channels)


def _shape(state: State) -> dict[str, int]:
    head = state.get("fc.weight")
    classes = head.shape[0] if head is not None and head.ndim else 0
    return {"num_classes": classes, "in_channels": state["conv1.0.weight"].shape[1]}


def _depth(state: State, stage: int) -> int:
    found = {int(m[1]) for key in state if (m := re.match(rf"layer{stage}\.(\d+)\.", key))}
    return len(found)
