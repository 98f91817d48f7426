"""What must be settled before the first step: pictures that can be used, and a network for them."""

from __future__ import annotations

import csv
import logging
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch

from resnest_cli import __version__, folders
from resnest_cli.bundled import DEMO
from resnest_cli.card import ModelCard
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.fetch import Progress
from resnest_cli.files import into_place
from resnest_cli.folders import LabelledPictures
from resnest_cli.labels import Labels
from resnest_cli.model.load import build, load_state, with_new_blocks, with_new_head
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.preprocess import Preprocessing
from resnest_cli.training.recipe import Recipe
from resnest_cli.variants import get_variant
from resnest_cli.writers import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkOptions:
    """Which network is to be trained."""

    model: str | None = None  # a variant, or demo
    weights: Path | None = None
    scratch: bool = False
    width: float | None = None  # of a network from scratch
    blocks: str | None = None  # in each of the four stages, such as 2,2,2,2
    crop: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    name: str | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        """Raise `UsageError` for what doesn't go together."""
        if self.width is not None and not (self.scratch and 0.05 <= self.width <= 8):
            raise UsageError("--width is 0.05 to 8, and for --scratch only")
        if self.blocks is not None and not re.fullmatch(r"[1-9]\d?(,[1-9]\d?){3}", self.blocks):
            raise UsageError(
                f"--blocks is four numbers of 1 to 99 such as 2,2,2,2, not '{self.blocks}'"
            )
        if self.scratch and self.weights:
            raise UsageError("--scratch begins without weights: leave out one of the two")
        if self.name is not None and not 0 < len(self.name) <= 200:
            raise UsageError("--name is 1 to 200 letters")
        if self.scratch and self.model == DEMO:
            raise UsageError(
                "--scratch takes a variant's architecture, and demo (of --model or $RESNEST_MODEL) "
                "has learned already; name a variant with --model"
            )
        if self.crop is not None and not 16 <= self.crop <= 2048:
            raise UsageError(f"--crop is 16 to 2048 pixels, not {self.crop}")
        if self.resize is not None and not (self.crop or 16) <= self.resize <= 4096:
            raise UsageError(f"--resize is --crop to 4096 pixels, not {self.resize}")

    def network(
        self, classes: tuple[str, ...], recipe: Recipe, on_progress: Progress | None = None
    ) -> tuple[ResNeSt, ModelCard]:
        """A network for these classes, and the card that its checkpoints will carry.

        Random numbers, of the last layer or of all, follow from the recipe's seed.
        """
        torch.manual_seed(recipe.seed)
        labels = Labels(classes)
        if self.scratch:
            variant = get_variant(self.model or "resnest50")
            card = self._card(self._scaled(ModelCard.of_variant(variant)), labels, recipe)
            network = ResNeSt(card.architecture, num_classes=card.num_classes)
            initialise(network, zero_gamma=True)
            return network, card
        loaded = load_state(
            self.model, weights=self.weights, offline=self.offline, on_progress=on_progress
        )
        if loaded.card.in_channels != 3:
            raise UsageError(
                f"'{loaded.path}' is for pictures of {loaded.card.in_channels} channels"
            )
        card = self._card(self._scaled(loaded.card), labels, recipe)
        same = loaded.card.labels is not None and loaded.card.labels.names == classes
        state = loaded.state if same else with_new_head(loaded.state, card)
        if card.architecture != loaded.card.architecture:
            if recipe.freeze:
                raise UsageError(
                    "--freeze trains the last layer only, and the blocks that --blocks adds would "
                    "learn nothing: leave out one of the two"
                )
            state = with_new_blocks(state, card)
        copied = {key: value.clone() for key, value in state.items()}  # files may be mapped
        return build(copied, card), card

    def _scaled(self, begun: ModelCard) -> ModelCard:
        """The card of a network of the width and with the blocks that were asked for."""
        name, architecture = begun.name, begun.architecture
        if self.width:
            name = f"{name}-w{self.width:g}"
            architecture = replace(architecture, width=self.width)
        if self.blocks:
            first, second, third, fourth = map(int, self.blocks.split(","))
            learned, blocks = architecture.blocks, (first, second, third, fourth)
            if not self.scratch and any(map(operator.lt, blocks, learned)):
                raise UsageError(
                    f"--blocks is at least {','.join(map(str, learned))}, which {begun.name} has; "
                    "for fewer begin with --scratch"
                )
            if blocks != learned:
                name = f"{name}-b{self.blocks.replace(',', '.')}"
            architecture = replace(architecture, blocks=blocks)
        return replace(begun, name=name, architecture=architecture)

    def _card(self, begun: ModelCard, labels: Labels, recipe: Recipe) -> ModelCard:
        return replace(
            begun,
            name=self.name or begun.name,
            num_classes=len(labels),
            in_channels=3,
            preprocessing=self._preprocessing(begun.preprocessing),
            labels=labels,
            tool_version=__version__,
            recipe=recipe.as_dict(),
            origin=None,
        )

    def _preprocessing(self, before: Preprocessing) -> Preprocessing:
        crop = self.crop or before.crop
        resize = self.resize or round(before.resize * crop / before.crop)
        if resize < crop:
            raise UsageError(f"--resize must be at least the crop of {crop} pixels, not {resize}")
        interpolation = self.interpolation or before.interpolation
        return replace(before, crop=crop, resize=resize, interpolation=interpolation)


def unreadable(
    train: LabelledPictures,
    val: LabelledPictures | None,
    record: Path,
    *,
    workers: int,
    advance: Callable[[], None],
) -> set[str]:
    """The pictures that cannot be decoded; a list of them, with reasons, is written to `record`."""
    record.unlink(missing_ok=True)
    bad = folders.find_unreadable(
        [*train.paths, *(val.paths if val else ())], workers=workers, advance=advance
    )
    if bad:
        with into_place(record) as path, _open(path) as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "reason"), *bad.items()])
        count = len(bad)
        log.warning(
            "%s cannot be read and %s left out: '%s' lists %s",
            f"{count:,} picture{'' if count == 1 else 's'}",
            "is" if count == 1 else "are",
            record,
            "it" if count == 1 else "them",
        )
    return set(bad)


def write_held_out(val: LabelledPictures, folder: Path, record: Path) -> None:
    """The list of what was held out of a folder, as `resnest evaluate --labels-file` reads it."""
    with into_place(record) as path, _open(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "class"))
        for name, target in zip(val.paths, val.targets, strict=True):
            writer.writerow((Path(name).relative_to(folder).as_posix(), val.classes[target]))


def _open(path: Path) -> TextIO:
    """A CSV file to write; names of files that are not UTF-8 are kept as they are."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def parts(
    pictures: LabelledPictures, val: LabelledPictures | None, share: float, seed: int
) -> tuple[LabelledPictures, LabelledPictures]:
    """What to learn from and what to validate on, with the same classes.

    Raises:
        DatasetError: there is one class only, nothing to validate on, or a class to validate on
            that is not learned.
    """
    if val is not None:
        val = folders.match_validation(pictures, val)
    pictures, empty = folders.without_empty_classes(pictures)
    if empty:
        shown = ", ".join(printable(name) for name in empty[:5]) + (", ..." if empty[5:] else "")
        log.warning("without any picture, and so left out: %s", shown)
    if len(pictures.classes) < 2:
        only = f"'{printable(pictures.classes[0])}'" if pictures.classes else "none"
        raise DatasetError(
            f"there is nothing to tell apart: of classes with pictures there is {only}"
            + (" only" if pictures.classes else "")
        )
    if val is None:
        train, val = folders.split(pictures, share, seed)
    else:
        train, val = pictures, val.with_classes(pictures.classes)
    if not val:
        hint = "each class needs two pictures or more, of which one is held out"
        raise DatasetError(f"there is no picture to validate on\n{hint}, or give a folder: --val")
    single = [n for n, count in zip(train.classes, val.counts(), strict=True) if not count]
    if single:
        log.warning("not validated, as there is no picture for it: %s", ", ".join(single[:5]))
    return train, val
