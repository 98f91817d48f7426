"""All that decides a training run except the images and the machine, and its files.

Options are values by the names of `Recipe`'s fields: of a file, a mapping or the command line.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from resnest_cli import settings
from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.variants import get_variant
from resnest_cli.catalog.weights import default_model, is_path
from resnest_cli.errors import UsageError, require_extra
from resnest_cli.imaging.preprocessing import check_sizes
from resnest_cli.text import one_line

Options = Mapping[str, object]  # some of a recipe's fields, each of the field's type

AUGMENTATIONS = ("none", "light", "randaugment", "autoaugment", "trivial")
# fields without an option of the command line
_WITHOUT_OPTION = (
    "resize", "momentum", "weight_decay", "warmup_epochs", "label_smoothing", "mixup", "cutmix",
    "min_scale", "flip", "dropout", "ema", "clip_grad", "weights_sha256", "teacher_sha256",
)  # fmt: skip
_NUMBERS = {
    "width": (0.05, 8),
    "val_fraction": (0.001, 0.9),
    "epochs": (1, 100_000),
    "batch_size": (2, 65_536),
    "lr": (0, 1000),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1),
    "label_smoothing": (0, 0.9),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "min_scale": (0.001, 1),
    "dropout": (0, 0.95),
    "ema": (0, 0.999999),
    "clip_grad": (0, 1e9),
    "seed": (0, 2**32 - 1),
}
_CHOICES = {
    "augment": AUGMENTATIONS,
    "precision": ("fp32", "bf16", "fp16"),
    "store": ("fp32", "fp16"),
}
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "Path": "a path",
    "tuple[Path, ...]": "a list of paths",
    "tuple[str, ...]": "a list of texts",
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    The defaults are the paper's (arXiv 2004.08955, sections 4.2 and 5.1), but without its 270
    epochs, batches of 8192 and DropBlock, and with dropout for networks of any depth. Those in
    `FINE_TUNING` differ for networks that are trained already.

    Raises:
        UsageError: values are out of range or exclude each other.
    """

    model: str | None = None  # name or timm alias, `demo`, or a checkpoint's path
    weights: Path | None = None  # a local checkpoint
    weights_sha256: str | None = None  # that `weights` must have
    scratch: bool = False  # start from random weights
    width: float | None = None  # factor on every channel count, from scratch only
    crop: int | None = None  # input resolution, pixels; None: the model's
    resize: int | None = None  # pixels of the short side before the centre crop
    val: Path | None = None  # class folders to validate on
    val_fraction: float | None = None  # of each class, held out if there is no such folder
    check: bool = True  # decode every image first, and leave out unreadable ones
    teacher: tuple[Path, ...] = ()  # checkpoints to distill
    teacher_sha256: tuple[str, ...] = ()  # that they must have
    epochs: int = 100
    batch_size: int | None = None  # images per step, over all processes; None: 64, fewer if few
    lr: float = 0.1  # peak learning rate at 256 images per step; scaled in proportion
    momentum: float = 0.9  # Nesterov momentum
    weight_decay: float = 1e-4  # not on biases and BatchNorm
    warmup_epochs: float = 5.0  # linear rise of the learning rate; then half a cosine, to 0
    label_smoothing: float = 0.1  # 0 with a teacher
    mixup: float = 0.2  # alpha of the Beta distribution; 0 = off (arXiv 1710.09412)
    cutmix: float = 0.0  # the same for CutMix; with both, each step draws one (arXiv 1905.04899)
    augment: str = "autoaugment"  # one of AUGMENTATIONS; light = RandomResizedCrop + flip
    min_scale: float = 0.08  # lower bound of RandomResizedCrop's scale, a fraction of the area
    flip: bool = True  # flip half of the images horizontally
    dropout: float = 0.2  # fraction of the pooled features
    ema: float = 0.0  # decay per step of the averaged weights, which are saved; 0 = off
    clip_grad: float = 0.0  # gradient clipping norm; 0 = off
    precision: str = "fp32"  # autocast dtype: fp32, bf16 or fp16
    freeze_backbone: bool = False  # train the last layer only
    class_weights: bool = False  # weight classes by the inverse of their number of images
    store: str = "fp32"  # dtype of the weights in the files: fp32 or fp16
    seed: int = 0  # random seed

    def __post_init__(self) -> None:
        for name, (low, high) in {**_NUMBERS, "warmup_epochs": (0, self.epochs)}.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise UsageError(f"{spelled(name)} must be {low:g} to {high:g}, not {value}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"{spelled(name)} must be {', '.join(known)}, not '{value}'")
        check_sizes(self.crop, self.resize)
        if self.width is not None and not self.scratch:
            raise UsageError("`width` needs `scratch`: the width of trained weights is fixed")
        if self.scratch and (self.weights or self.freeze_backbone):
            other = "`weights`" if self.weights else "`freeze_backbone`"
            raise UsageError(f"`scratch` starts from random weights: leave out it or {other}")
        if self.scratch and self.model == DEMO:
            raise UsageError(
                "`scratch` takes a variant's architecture, and demo (from `model` or "
                "$RESNEST_MODEL) is a trained network; name a variant with `model`"
            )

    def learning_rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs, a real number from 0 to `epochs`."""
        peak = self.lr * (self.batch_size or 0) / 256
        if progress < self.warmup_epochs:
            return peak * max(progress, 0.01 * self.warmup_epochs) / self.warmup_epochs
        rest = (progress - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return peak * (1 + math.cos(math.pi * min(rest, 1.0))) / 2

    def as_dict(self) -> dict[str, Any]:
        """The values for JSON: paths absolute, without what is None or empty."""
        return {k: _plain(v) for k, v in vars(self).items() if v is not None and v != ()}

    def decisive(self) -> dict[str, Any]:
        """The values that decide the weights of a run, wherever its files are."""
        others = ("weights", "val", "teacher", "check")
        return {k: v for k, v in self.as_dict().items() if k not in others}


FINE_TUNING = {
    "epochs": 20, "lr": 0.04, "warmup_epochs": 1.0, "mixup": 0.0, "augment": "light",
    "min_scale": 0.35,
}  # fmt: skip


def make_recipe(options: Options) -> Recipe:
    """The complete recipe: the options, and defaults for training from scratch or fine-tuning."""
    values: dict[str, Any] = {} if options.get("scratch") else dict(FINE_TUNING)
    if options.get("teacher"):
        values["label_smoothing"] = 0.0
    if "model" not in options and "weights" not in options:
        model = default_model() or settings.DEFAULT_MODEL
        values |= read_options({"model": model}, "$RESNEST_MODEL")
    values |= options
    if "warmup_epochs" not in options:  # short runs have no time for a long warm-up
        usual = values.get("warmup_epochs", Recipe.warmup_epochs)
        values["warmup_epochs"] = min(usual, round(values.get("epochs", Recipe.epochs) / 5, 2))
    return Recipe(**values)


def combine(options: Options, base: Options) -> dict[str, Any]:
    """Options, and those of `base` for whatever is missing.

    A model or weights replace both of the base's, and teachers those of the base, with digests.
    """
    replaced: set[str] = set()
    if {"model", "weights"} & options.keys():
        replaced = {"model", "weights", "weights_sha256"}
    if "teacher" in options:
        replaced |= {"teacher_sha256"}
    return {k: v for k, v in base.items() if k not in replaced} | dict(options)


def read_recipe(recipe: str | os.PathLike[str] | Mapping[str, object]) -> dict[str, Any]:
    """The options in a YAML or TOML file, a run's `summary.json`, or a mapping.

    Relative paths in a file are relative to its folder.
    """
    if isinstance(recipe, Mapping):
        return read_options(recipe, "`recipe`")
    path = Path(recipe)
    values = _parsed(path)
    if path.suffix == ".json" and isinstance(values, Mapping):
        values = values.get("recipe", values)  # the rest of a summary is about the results
    if not isinstance(values, Mapping):
        raise UsageError(f"`recipe={path}` must hold names and values, such as epochs: 30")
    return read_options(values, f"`recipe={path}`", folder=path.absolute().parent)


def read_options(
    values: Mapping[str, object], origin: str, *, folder: Path | None = None
) -> dict[str, Any]:
    """Values as options: of the fields' types, without None, and models by their own names.

    `origin` says in messages where they come from; relative paths are relative to `folder`.
    """
    kinds = {field.name: str(field.type).removesuffix(" | None") for field in fields(Recipe)}
    if unknown := [str(name) for name in values if name not in kinds]:
        keys = "key" if len(unknown) == 1 else "keys"
        raise UsageError(
            f"{origin} has the unknown {keys} {', '.join(unknown)}\n"
            f"known are {', '.join(sorted(kinds))}"
        )
    options: dict[str, Any] = {}
    for name, value in values.items():
        try:
            if value is not None:
                options[name] = _converted(kinds[name], value, folder or Path())
        except (TypeError, ValueError) as error:
            kind = _KINDS[kinds[name]]
            raise UsageError(f"{name} in {origin} must be {kind}, not {value!r}") from error
    model = options.get("model")
    if model and model != DEMO and not is_path(model):
        options["model"] = get_variant(model).name
    elif model and model != DEMO:
        if "weights" in options:
            raise UsageError(f"`model` names the file '{model}': leave out `weights`")
        options["weights"] = (folder or Path()) / options.pop("model")
    return options


def spelled(name: str) -> str:
    """A field's name for messages; fields without an option are marked as in the recipe."""
    return f"{name} (in `recipe`)" if name in _WITHOUT_OPTION else f"`{name}`"


def _converted(kind: str, value: object, folder: Path) -> object:
    """A value of a field's kind; raises TypeError or ValueError for a value of another kind."""
    if kind.startswith("tuple"):
        items = [value] if isinstance(value, str | os.PathLike) else list(value)  # type: ignore[call-overload]
        return tuple(_converted(kind[len("tuple[") :].split(",")[0], x, folder) for x in items)
    if kind == "Path" and isinstance(value, str | os.PathLike):
        return folder / value
    if kind == "float" and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)  # of text, too: to YAML 1.1 a number such as 1e-4 is one
    if type(value).__name__ != kind:
        raise TypeError
    return value


def _plain(value: object) -> object:
    """A value for JSON; paths are absolute, with links under their own names."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def _parsed(path: Path) -> object:
    """What a file holds, by its suffix."""
    load = _loader(path)
    try:
        return load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"`recipe={path}` cannot be read: {error.strerror}") from error
    except Exception as error:  # each loader raises its own
        raise UsageError(f"`recipe={path}` is not valid: {one_line(str(error))}") from error


def _loader(path: Path) -> Callable[[str], object]:
    load: Callable[[str], object] = json.loads
    if path.suffix in (".yaml", ".yml"):
        require_extra("train", "yaml")
        import yaml

        load = yaml.safe_load
    elif path.suffix == ".toml":
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            require_extra("train", "tomli")
            import tomli as tomllib
        load = tomllib.loads
    elif path.suffix != ".json":
        raise UsageError(f"`recipe` must be a .yaml, .yml, .toml or .json file, not '{path}'")
    return load
