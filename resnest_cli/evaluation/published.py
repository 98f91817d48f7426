"""Whether a measured top-1 accuracy reproduces the published one."""

from __future__ import annotations

from dataclasses import dataclass

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.labels import imagenet1k
from resnest_cli.catalog.variants import VARIANTS
from resnest_cli.evaluation.metrics import Metrics, Proportion

IMAGENET_VALIDATION = 50_000  # images
_TOLERANCE = 0.001  # of two top-1 on those same images: decoders differ by less


@dataclass(frozen=True)
class Agreement:
    """A measured top-1 compared with the published one."""

    reason: str  # in words
    published: float | None = None  # top-1, 0 to 1
    source: str | None = None  # who published it
    agrees: bool | None = None  # None: they cannot be compared


def compare_with_published(config: ModelConfig, metrics: Metrics) -> Agreement | None:
    """Whether a top-1 measured on ImageNet is the published one; None for other networks.

    Images of all 1000 classes are needed. On the whole validation set the two must agree to 0.1 %;
    on a part of it, the published one must lie in the 95 % interval of the measured one.
    """
    variant = next((v for v in VARIANTS if v.name == config.name), None)
    if variant is None or config.labels != imagenet1k():
        return None
    if missing := int((metrics.per_class.support == 0).sum()):
        return Agreement(f"not compared: {missing:,} of ImageNet's 1,000 classes have no images")
    figures = (
        ("default", variant.top1_timm, "timm"),
        ("paper", variant.top1_authors, "the authors"),
    )
    known = [(preprocess, top1, source) for preprocess, top1, source in figures if top1]
    for preprocess, top1, source in known:
        if variant.preprocessing.named(preprocess) == config.preprocessing:
            whole = metrics.images == IMAGENET_VALIDATION
            return _compare(top1 / 100, source, metrics.top1, whole=whole)
    names = " and ".join(f"'{preprocess}'" for preprocess, _, _ in known)
    return Agreement(
        "no figure for this preprocessing and input resolution, only for preprocessing "
        f"{names} with the model's own crop and resize"
    )


def _compare(published: float, source: str, measured: Proportion, *, whole: bool) -> Agreement:
    agrees, bound = abs(published - measured.value) <= _TOLERANCE, "within 0.1 %"
    if not whole:
        agrees = measured.low <= published <= measured.high
        bound = "in the 95 % interval of this part of the data"
    reason = f"agrees with {source} ({bound})"
    if not agrees:
        reason = (
            f"does NOT agree with {source} (not {bound}); are these ImageNet's validation images, "
            "and the published weights?"
        )
    return Agreement(reason, published, source, agrees)
