"""The network that a training run starts from: trained weights, or an architecture and none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from resnest_cli import settings
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.labels import Labels
from resnest_cli.catalog.variants import get_variant
from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import UsageError
from resnest_cli.model.checkpoint import Checkpoint, load_checkpoint
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.model.surgery import with_new_head
from resnest_cli.text import printable
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.transforms import seeded
from resnest_cli.version import __version__


@dataclass(frozen=True)
class InitialWeights:
    """What a network in training starts from."""

    config: ModelConfig  # of the network to train, except its classes
    checkpoint: Checkpoint | None  # None: random weights

    @classmethod
    def load(
        cls,
        recipe: Recipe,
        *,
        offline: bool = False,
        on_bytes: Callable[[int, int | None], None] | None = None,
    ) -> InitialWeights:
        """Read the weights that a recipe names, if it names any."""
        checkpoint = None
        if recipe.scratch:
            config = ModelConfig.of_variant(get_variant(recipe.model or settings.DEFAULT_MODEL))
        else:
            weights = resolve(recipe.model, recipe.weights, offline=offline, on_bytes=on_bytes)
            checkpoint = load_checkpoint(weights)
            config = checkpoint.config
            if config.in_channels != 3:
                channels = config.in_channels
                raise UsageError(f"'{weights.path}' is for images of {channels} channels, not 3")
        if recipe.width:
            architecture = replace(config.architecture, width=recipe.width)
            name = f"{config.name}-w{recipe.width:g}"
            config = replace(config, name=name, architecture=architecture)
        shown = config.preprocessing.sized(recipe.crop, recipe.resize)
        config = replace(config, preprocessing=shown, tool_version=__version__, origin=None)
        return cls(config, checkpoint)

    @property
    def origin(self) -> str | None:
        """The model or the file that the weights come from; None: random weights."""
        if self.checkpoint is None:
            return None
        weights = self.checkpoint.weights
        return weights.model if weights.published else printable(str(weights.path))

    def network(self, classes: tuple[str, ...], recipe: Recipe) -> tuple[ResNeSt, ModelConfig]:
        """A network for these classes, and the config that its checkpoints will carry.

        A last layer for other classes, or all weights from scratch, follow from the recipe's seed.
        """
        config = replace(
            self.config, num_classes=len(classes), labels=Labels(classes), recipe=recipe.decisive()
        )
        with seeded(recipe.seed):
            if self.checkpoint is None:
                network = ResNeSt(config.architecture, num_classes=config.num_classes)
                initialise(network, zero_gamma=True)
                return network, config
            labels, state = self.checkpoint.config.labels, self.checkpoint.state
            if labels is None or labels.names != classes:
                state = with_new_head(state, config)
        copied = {key: value.clone() for key, value in state.items()}  # files may be mapped
        return self.checkpoint._replace(state=copied, config=config).network(), config
