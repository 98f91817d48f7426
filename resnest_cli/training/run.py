"""Training as one call: class folders to a checkpoint that `Classifier` loads.

    summary = train("photos/", model="demo", epochs=3)
    print(summary.best)
    print(Classifier(weights=summary.weights)("photo.jpg").top1)

Importing it is cheap: torch is imported once the options are known to be right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from resnest_cli import settings
from resnest_cli.errors import check_number, require_extra
from resnest_cli.training.plan import make_plan, reported_once
from resnest_cli.training.recipe import combine, read_options, read_recipe
from resnest_cli.training.run_folder import RunFolder
from resnest_cli.training.summary import SILENT_TRAINING, TrainingProgress, TrainingSummary

_MOST_WORKERS = 256


def train(
    data: str | os.PathLike[str],
    *,
    recipe: str | os.PathLike[str] | Mapping[str, object] | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    torch_compile: bool = False,
    offline: bool = False,
    progress: TrainingProgress = SILENT_TRAINING,
    **options: object,
) -> TrainingSummary:
    """Train or fine-tune a model on class folders.

    Args:
        data: a folder of class folders, or one with `train/` and `val/` or `test/` in it.
        recipe: a YAML or TOML file, a run's `summary.json`, or a mapping: options, for whatever
            is not given here.
        output: folder of checkpoints and history; default: `trained/` and the name of `data`.
        resume: continue the run in `output`.
        overwrite: replace the run in `output`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        workers: decoding processes, 0 to 256; 0: this process decodes; default: as it suits.
        torch_compile: let torch compile the network, for long runs: slow to start.
        offline: never touch the network.
        progress: receives the steps and epochs.
        options: the fields of `Recipe`, by name; None stands for the default.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM; what is done is saved, `resume` continues.
        ResNeStError: options, images or weights are unusable, or training diverged.
    """
    with reported_once():
        require_extra("train", "matplotlib")
        settings.contain("inductor")
        given = read_options(options, "the options")
        if recipe is not None:
            given = combine(given, read_recipe(recipe))
        if workers is not None:
            check_number("workers", workers, 0, _MOST_WORKERS)
        path = Path(output) if output else Path("trained") / Path(data).resolve().name
        folder = RunFolder(path, resume=resume, overwrite=overwrite)
        if folder.has_ended():
            folder.resumed_options(given)  # raises if others are asked for
            return TrainingSummary.read(path)
        plan = make_plan(Path(data), given, folder)
        from resnest_cli.training.session import execute
    plan = replace(plan, workers=workers, torch_compile=torch_compile, offline=offline)
    return execute(plan, device, progress)
