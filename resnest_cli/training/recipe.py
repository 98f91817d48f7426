"""What decides a training run, in one frozen dataclass whose comments are its documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from resnest_cli.errors import UsageError

AUGMENTATIONS = ("none", "light", "randaugment", "autoaugment", "trivial")


@dataclass(frozen=True)
class Recipe:
    """A training run, apart from its network and its pictures.

    The defaults are the paper's (arXiv 2004.08955, sections 4.2 and 5.1), but without its 270
    epochs, 8192 pictures a step and DropBlock, and with dropout for networks of any depth.
    `Recipe.fine_tuning` is for networks that have learned already.
    """

    epochs: int = 100
    batch_size: int = 64  # pictures per step, over all processes
    lr: float = 0.1  # peak learning rate at 256 pictures per step; scaled in proportion
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 1e-4  # not on biases and batch norms
    warmup_epochs: float = 5.0  # linear rise of the learning rate; then half a cosine, to 0
    label_smoothing: float = 0.1
    mixup: float = 0.2  # alpha of the Beta distribution; 0: none (arXiv 1710.09412)
    cutmix: float = 0.0  # the same, for rectangles; with both, each step draws one (1905.04899)
    augment: str = "autoaugment"  # one of AUGMENTATIONS; light is crop and flip
    min_scale: float = 0.08  # least share of a picture's area that is cut out
    max_scale: float = 1.0  # greatest; above 1 the picture is continued as in a mirror
    resampling: bool = False  # cut out with any interpolation, at times blurred or sharpened
    flip: bool = True  # mirror half of the pictures, left to right
    dropout: float = 0.2  # share of the pooled features
    ema: float = 0.0  # decay per step of the averaged weights that are kept; 0: no averaging
    clip_grad: float = 0.0  # greatest norm of the gradient; 0: any
    precision: str = "fp32"  # of the multiplications: fp32, bf16 or fp16 (autocast)
    freeze: bool = False  # train the last layer only
    balance: bool = False  # weigh classes by the inverse of their number of pictures
    store: str = "fp32"  # type of the weights in the files: fp32 or fp16
    seed: int = 0
    teachers: tuple[str, ...] = ()  # SHA-256 of checkpoints whose answers stand in for the labels

    @classmethod
    def fine_tuning(cls) -> dict[str, Any]:
        """What differs for a network that has learned already: less of everything."""
        return {
            "epochs": 20,
            "lr": 0.04,
            "warmup_epochs": 1.0,
            "mixup": 0.0,
            "augment": "light",
            "min_scale": 0.35,
        }

    def __post_init__(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        ranges = {
            "epochs": (1, 100_000),
            "batch_size": (2, 65_536),
            "lr": (0, 1000),
            "momentum": (0, 0.9999),
            "weight_decay": (0, 1),
            "warmup_epochs": (0, self.epochs),
            "label_smoothing": (0, 0.9),
            "mixup": (0, 100),
            "cutmix": (0, 100),
            "min_scale": (0.001, self.max_scale),
            "max_scale": (0.001, 4),
            "dropout": (0, 0.95),
            "ema": (0, 0.999999),
            "clip_grad": (0, 1e9),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise UsageError(f"--{name.replace('_', '-')} is {low:g} to {high:g}, not {value}")
        for name, known in (
            ("augment", AUGMENTATIONS),
            ("precision", ("fp32", "bf16", "fp16")),
            ("store", ("fp32", "fp16")),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"--{name} is {', '.join(known)}, not '{getattr(self, name)}'")

    def learning_rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs, a real number from 0 to `epochs`."""
        peak = self.lr * self.batch_size / 256
        if progress < self.warmup_epochs:
            return peak * max(progress, 0.01 * self.warmup_epochs) / self.warmup_epochs
        rest = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return peak * (1 + math.cos(math.pi * min(rest, 1.0))) / 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return asdict(self)

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


def check_used(given: Mapping[str, Any]) -> None:
    """Raise `UsageError` for options that another one makes idle; None stands for not given."""
    about_views = ("flip", "min_scale", "max_scale", "resampling")
    idle = [f"--{name.replace('_', '-')}" for name in about_views if given[name] is not None]
    if given["augment"] == "none" and idle:
        raise UsageError(
            f"{' and '.join(idle)} would do nothing with --augment none: leave out one of the two"
        )


def make_recipe(*, scratch: bool, given: Mapping[str, Any]) -> Recipe:
    """The recipe of a run: what was given, and the defaults for training or fine-tuning.

    Raises:
        UsageError: a value is out of its range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    values = ({} if scratch else Recipe.fine_tuning()) | chosen
    epochs = values.get("epochs", Recipe.epochs)
    if "min_scale" not in chosen:
        least, most = values.get("min_scale", Recipe.min_scale), values.get("max_scale", 1.0)
        values["min_scale"] = min(least, most)
    if "warmup_epochs" not in chosen:  # short runs can't wait so long
        values["warmup_epochs"] = min(
            values.get("warmup_epochs", Recipe.warmup_epochs), round(epochs / 5, 2)
        )
    return Recipe(**values)
