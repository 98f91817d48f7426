"""The card of a network: what one must know to use its weights, as a checkpoint carries it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from resnest_cli.labels import Labels, imagenet1k
from resnest_cli.preprocess import Preprocessing
from resnest_cli.variants import Architecture, Variant

METADATA_KEY = "resnest"  # of the card among a safetensors file's metadata
_LONGEST = 16_000_000  # characters of a card: names for a million classes
_MOST = {"stem_width": 1024, "radix": 16, "cardinality": 64, "base_width": 1024}
_FORMAT = 1


@dataclass(frozen=True)
class ModelCard:
    """Which network a checkpoint holds, how to feed it and what its outputs mean."""

    name: str  # a variant's, or the trainer's own
    architecture: Architecture
    num_classes: int
    in_channels: int
    preprocessing: Preprocessing
    labels: Labels | None  # None: nobody said
    tool_version: str | None = None  # of the `resnest` that wrote the file
    recipe: Mapping[str, Any] | None = None  # how it was trained: a `Recipe` as plain values
    origin: str | None = None  # of an exported file: the checkpoint's name and its SHA-256

    @classmethod
    def of_variant(
        cls, variant: Variant, *, num_classes: int = 1000, in_channels: int = 3
    ) -> ModelCard:
        """The card of a published variant, or of its architecture with other classes."""
        return cls(
            variant.name,
            variant.architecture,
            num_classes,
            in_channels,
            variant.preprocessing,
            imagenet1k() if num_classes == 1000 else None,
        )

    def to_json(self) -> str:
        """The card as text for a checkpoint's metadata."""
        values = asdict(self) | {"preprocessing": self.preprocessing.as_dict(), "format": _FORMAT}
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """What `to_json` gave.

        Raises:
            ValueError: the text is no card, or holds values that make no sense.
        """
        try:
            if len(text) > _LONGEST:
                raise ValueError(f"a card is at most {_LONGEST:,} characters")
            values: dict[str, Any] = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise ValueError("a newer version of resnest wrote it")
            values["architecture"] = _architecture(values["architecture"])
            values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            values["labels"] = _labels(values["labels"])
            card = cls(**values)
            card._check()
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a model card: {error!r}") from error
        return card

    def _check(self) -> None:
        if not isinstance(self.name, str) or len(self.name) > 200:
            raise ValueError("its name is no short text")
        if not isinstance(self.origin, str | None) or len(self.origin or "") > 500:
            raise ValueError("its origin is no short text")
        if not isinstance(self.recipe, Mapping | None):
            raise ValueError("its recipe is no table of values")
        for count in (self.num_classes, self.in_channels):
            if not isinstance(count, int) or not 0 <= count <= 1_000_000:
                raise ValueError(f"classes and channels are numbers, not {count!r}")
        if self.labels and len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels):,} labels for {self.num_classes:,} classes")
        if self.labels and self.labels.wnids and len(self.labels.wnids) != len(self.labels):
            raise ValueError("it has not as many WordNet ids as labels")

    def at_crop(self, crop: int | None) -> ModelCard:
        """The same network for pictures of another size; None: its own."""
        return replace(self, preprocessing=self.preprocessing.sized(crop, None))

    def with_shape(self, *, num_classes: int, in_channels: int) -> ModelCard:
        """The same network with another head or other input; labels go when they no longer fit."""
        labels = self.labels if num_classes == self.num_classes else None
        return replace(self, num_classes=num_classes, in_channels=in_channels, labels=labels)


def _architecture(values: Mapping[str, Any]) -> Architecture:
    a = Architecture(**values)
    first, second, third, fourth = a.blocks
    a = replace(a, blocks=(first, second, third, fourth))
    if not (isinstance(a.width, int | float) and 0 < a.width <= 8):
        raise ValueError(f"not a ResNeSt: {a}")
    sizes = [(blocks, 99) for blocks in a.blocks]
    sizes += [(getattr(a, name), most) for name, most in _MOST.items()]
    if not all(isinstance(size, int) and 1 <= size <= most for size, most in sizes):
        raise ValueError(f"not a ResNeSt: {a}")
    return a


def _labels(values: Mapping[str, Any] | None) -> Labels | None:
    if values is None:
        return None
    wnids = values["wnids"]
    return Labels(tuple(map(str, values["names"])), tuple(map(str, wnids)) if wnids else None)
