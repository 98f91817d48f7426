"""A model's config, as checkpoints carry it: architecture, classes, preprocessing, origin."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from resnest_cli.catalog.labels import Labels, imagenet1k
from resnest_cli.catalog.variants import Architecture, Variant
from resnest_cli.imaging.preprocessing import Preprocessing

METADATA_KEY = "resnest"  # of the config among a safetensors file's metadata
_LONGEST = 16_000_000  # characters of a config: names for a million classes
_MOST = {"stem_width": 1024, "radix": 16, "cardinality": 64, "base_width": 1024}
_FORMAT = 1


@dataclass(frozen=True)
class ModelConfig:
    """Which network a checkpoint holds, how to feed it and what its outputs mean."""

    name: str  # a variant's, or one chosen in training
    architecture: Architecture
    num_classes: int
    in_channels: int
    preprocessing: Preprocessing
    labels: Labels | None  # None: unknown
    tool_version: str | None = None  # of the `resnest` that wrote the file
    recipe: Mapping[str, Any] | None = None  # how it was trained: a `Recipe` as plain values
    origin: str | None = None  # of an exported file: the checkpoint's name and its SHA-256
    temperature: float | None = None  # fitted to calibrate; the last layer is divided by it already

    @classmethod
    def of_variant(
        cls, variant: Variant, *, num_classes: int = 1000, in_channels: int = 3
    ) -> ModelConfig:
        """The config of a published variant, or of its architecture with other classes."""
        v, labels = variant, imagenet1k() if num_classes == 1000 else None
        return cls(v.name, v.architecture, num_classes, in_channels, v.preprocessing, labels)

    def to_json(self) -> str:
        """The config as text for a checkpoint's metadata."""
        values = asdict(self) | {"preprocessing": self.preprocessing.as_dict(), "format": _FORMAT}
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The config in a text that `to_json` wrote; `ValueError` if its values are absurd."""
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"it is longer than {_LONGEST:,} characters")
            values: dict[str, Any] = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise ValueError("it was written by a newer version of resnest")
            values["architecture"] = _architecture(values["architecture"])
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            values["labels"] = _labels(values["labels"])
            config = cls(**values)
            config._check()
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a model config: {error!r}") from error
        return config

    def _check(self) -> None:
        for text, most, what in ((self.name, 200, "name"), (self.origin or "", 500, "origin")):
            if not isinstance(text, str) or len(text) > most:
                raise ValueError(f"the {what} must be a text of at most {most} characters")
        if not (self.temperature is None or 0 < self.temperature < math.inf):
            raise ValueError(f"the temperature must be positive, not {self.temperature!r}")
        if not isinstance(self.recipe, Mapping | None):
            raise ValueError("the recipe must be a table of values")
        for count in (self.num_classes, self.in_channels):
            if not isinstance(count, int) or not 0 <= count <= 1_000_000:
                raise ValueError(f"classes and channels must be 0 to 1,000,000, not {count!r}")
        if self.labels and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels):,} labels for {self.num_classes:,} classes")
        if self.labels and self.labels.wnids and len(self.labels.wnids) != len(self.labels):
            raise ValueError("the numbers of WordNet ids and of labels differ")

    def at_crop(self, crop: int | None) -> ModelConfig:
        """The same network at another input resolution, in pixels; None: its own."""
        return replace(self, preprocessing=self.preprocessing.sized(crop, None))


def _architecture(values: Mapping[str, Any]) -> Architecture:
    first, second, third, fourth = values["blocks"]
    a = Architecture(**{**values, "blocks": (first, second, third, fourth)})
    sizes = [(blocks, 99) for blocks in a.blocks]
    sizes += [(getattr(a, name), most) for name, most in _MOST.items()]
    possible = all(isinstance(size, int) and 1 <= size <= most for size, most in sizes)
    if not possible or not (isinstance(a.width, int | float) and 0 < a.width <= 8):
        raise ValueError(f"not a ResNeSt: {a}")
    return a


def _labels(values: Mapping[str, Any] | None) -> Labels | None:
    if values is None:
        return None
    wnids = values["wnids"]
    return Labels(tuple(map(str, values["names"])), tuple(map(str, wnids)) if wnids else None)
