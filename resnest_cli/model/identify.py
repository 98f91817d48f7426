"""A state dict's shapes: which ResNeSt they are, and which of them do not fit."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.variants import (
    EXPANSION,
    STAGE_BASES,
    VARIANTS,
    Architecture,
    Variant,
    get_variant,
)
from resnest_cli.errors import CheckpointError
from resnest_cli.model.resnest import StateDict, shapes_only

log = logging.getLogger(__name__)


def identify(state: StateDict, path: Path, model: str | None = None) -> ModelConfig:
    """The config of a checkpoint without one; `CheckpointError` if no variant has its shapes.

    Shapes do not say whether pooling comes before the 3x3 convolution. Then `model` decides, or a
    variant's name within the file's name, or else the variant that is listed first is taken.
    """
    fitting = fitting_variants(state)
    head = state.get("fc.weight")
    classes = head.shape[0] if head is not None and head.ndim else 0
    shape = {"num_classes": classes, "in_channels": state["conv1.0.weight"].shape[1]}
    if model is not None:
        return ModelConfig.of_variant(get_variant(model), **shape)
    if not fitting:
        raise CheckpointError(
            f"'{path}' holds no published ResNeSt, and has no config that describes it: "
            f"{infer_architecture(state) or 'its parameters are those of another network'}"
        )
    named = [v for v in fitting if v.name in path.name or (v.alias and v.alias in path.name)]
    variant = max(named, key=lambda v: len(v.name), default=fitting[0])
    if len(fitting) > 1 and not named:
        others = ", ".join(v.name for v in fitting[1:])
        same = f"{variant.name}; {others} has the same shapes"
        log.warning("'%s' is taken for %s (choose with `model`)", path, same)
    log.info("'%s' looks like %s", path, variant.name)
    return ModelConfig.of_variant(variant, **shape)


def fitting_variants(state: StateDict) -> list[Variant]:
    """The variants whose architecture has a state dict's shapes."""
    found = infer_architecture(state)
    if found is None:
        return []
    same = {found, Architecture(**{**vars(found), "avd_first": True})}
    return [v for v in VARIANTS if v.architecture in same]


def infer_architecture(state: StateDict) -> Architecture | None:
    """The architecture that a state dict's shapes follow from; None if they are not a ResNeSt's.

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


def mismatches(state: StateDict, config: ModelConfig) -> list[str]:
    """The differences between a state dict's shapes and a config's network, a phrase each."""
    network = shapes_only(
        config.architecture, num_classes=config.num_classes, in_channels=config.in_channels
    )
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    missing = [k for k in expected if k not in found and not k.endswith("num_batches_tracked")]
    differing = [k for k in expected if k in found and found[k] != expected[k]]
    return [
        *(f"{k} is missing" for k in sorted(missing)),
        *(f"{k} is {found[k]}, not {expected[k]}" for k in sorted(differing)),
        *(f"{k} is unexpected" for k in sorted(found.keys() - expected.keys())),
    ]


def explain_mismatch(path: Path, config: ModelConfig, problems: list[str], state: StateDict) -> str:
    """Two lines: what does not fit, and which variant has the file's shapes."""
    shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if problems[3:] else "")
    looks = [v.name for v in fitting_variants(state)]
    hint = f"it looks like {' or '.join(looks)}" if looks else "it fits no published variant"
    use = f": use `model={looks[0]}`" if looks and config.name not in looks else ""
    return f"'{path}' does not fit {config.name}: {shown}\n{hint}{use}"


def _depth(state: StateDict, stage: int) -> int:
    return len({int(m[1]) for key in state if (m := re.match(rf"layer{stage}\.(\d+)\.", key))})
