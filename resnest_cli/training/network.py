"""The network that a training begins with: learned weights, or an architecture and none."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from resnest_cli import __version__
from resnest_cli.bundled import DEMO
from resnest_cli.card import ModelCard
from resnest_cli.errors import UsageError
from resnest_cli.fetch import Progress
from resnest_cli.labels import Labels
from resnest_cli.model.load import build, load_state, with_new_blocks, with_new_head
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.model.shapes import State
from resnest_cli.preprocess import Preprocessing, check_sizes
from resnest_cli.training.recipe import Recipe
from resnest_cli.variants import get_variant


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
        check_sizes(self.crop, self.resize)

    def begin(self, *, freeze: bool = False, on_progress: Progress | None = None) -> Beginning:
        """Find and read the weights that are to be learned further, where there are any.

        Args:
            freeze: only the last layer will be trained.
            on_progress: called with a download's bytes so far, and in all where that is known.

        Raises:
            CheckpointError: the weights are missing, damaged or of another network.
            UsageError: they don't go with the options.
        """
        if self.scratch:
            if freeze:
                raise UsageError(
                    "--freeze trains the last layer only, of what --scratch begins at random: "
                    "leave out one of the two"
                )
            variant = get_variant(self.model or "resnest50")
            return Beginning(self._wanted(ModelCard.of_variant(variant)))
        state, card, path = load_state(
            self.model, weights=self.weights, offline=self.offline, on_progress=on_progress
        )
        if card.in_channels != 3:
            raise UsageError(f"'{path}' is for pictures of {card.in_channels} channels")
        wanted = self._wanted(card)
        if freeze and wanted.architecture != card.architecture:
            raise UsageError(
                "--freeze trains the last layer only, and the blocks that --blocks adds would "
                "learn nothing: leave out one of the two"
            )
        return Beginning(wanted, state, card, str(self.weights or self.model or "resnest50"))

    def _wanted(self, begun: ModelCard) -> ModelCard:
        """The card of the network that is to come of another one's, but for its classes."""
        scaled = self._scaled(begun)
        return replace(
            scaled,
            name=self.name or scaled.name,
            in_channels=3,
            preprocessing=self._preprocessing(begun.preprocessing),
            tool_version=__version__,
            origin=None,
        )

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

    def _preprocessing(self, before: Preprocessing) -> Preprocessing:
        sized = before.sized(self.crop, self.resize)
        return replace(sized, interpolation=self.interpolation or before.interpolation)


@dataclass(frozen=True)
class Beginning:
    """What a network in training comes from."""

    wanted: ModelCard  # of the network to be, but for its classes
    state: State | None = None  # the tensors that were learned; None: it begins from scratch
    card: ModelCard | None = None  # that came with them
    origin: str | None = None  # where they came from

    def network(self, classes: tuple[str, ...], recipe: Recipe) -> tuple[ResNeSt, ModelCard]:
        """A network for these classes, and the card that its checkpoints will carry.

        Random numbers, of the last layer, of added blocks or of all, follow from the recipe's seed.
        """
        torch.manual_seed(recipe.seed)
        card = replace(
            self.wanted, num_classes=len(classes), labels=Labels(classes), recipe=recipe.as_dict()
        )
        if self.state is None or self.card is None:
            network = ResNeSt(card.architecture, num_classes=card.num_classes)
            initialise(network, zero_gamma=True)
            return network, card
        same = self.card.labels is not None and self.card.labels.names == classes
        state = self.state if same else with_new_head(self.state, card)
        if card.architecture != self.card.architecture:
            state = with_new_blocks(state, card)
        copied = {key: value.clone() for key, value in state.items()}  # files may be mapped
        return build(copied, card), card
