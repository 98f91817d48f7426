"""`resnest train`: class folders to a checkpoint that `predict` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from resnest_cli.cli import options
from resnest_cli.cli.options import MACHINE, MODEL, OUTPUT, option
from resnest_cli.cli.training_progress import chosen_training_progress
from resnest_cli.hardware import is_main_process, is_secondary_process
from resnest_cli.progress import set_verbosity

_DATA, _RECIPE = "Data", "Recipe"  # help panels


def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Class folders to train on, or a folder with train/ and val/ or test/ in it.",
            show_default=False,
        ),
    ],
    model: options.Model = None,
    weights: options.Weights = None,
    scratch: Annotated[
        bool | None, option("--scratch/--no-scratch", MODEL, "Start from random weights.")
    ] = None,
    width: Annotated[
        float | None,
        option("--width X", MODEL, "Channel factor, 0.05 to 8; needs --scratch. [default: 1]"),
    ] = None,
    crop: options.Crop = None,
    val: Annotated[
        Path | None,
        option(
            "--val DIR",
            _DATA,
            "Validation set. [default: val/, valid/, validation/ or test/ in DATA, else held out]",
        ),
    ] = None,
    val_fraction: Annotated[
        float | None,
        option(
            "--val-fraction P", _DATA, "Fraction of each class to hold out, to 0.9. [default: 0.1]"
        ),
    ] = None,
    check: Annotated[
        bool | None,
        option("--check/--no-check", _DATA, "Leave out unreadable images. [default: check]"),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        option("--teacher FILE", _DATA, "Teacher checkpoint for distillation; repeatable."),
    ] = None,
    recipe: Annotated[
        Path | None,
        option(
            "--recipe FILE",
            _RECIPE,
            "YAML or TOML file of options and further hyperparameters, or the summary.json of a "
            "run to repeat; options on the command line take precedence.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        option("--epochs N", _RECIPE, "Number of epochs. [default: 20, with --scratch 100]"),
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "--batch-size -b N",
            _RECIPE,
            "Images per step, over all processes. [default: 64, fewer for few images]",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        option(
            "--lr X",
            _RECIPE,
            "Peak learning rate at 256 images per step; scaled in proportion to --batch-size. "
            "[default: 0.04, with --scratch 0.1]",
        ),
    ] = None,
    augment: Annotated[
        Literal["none", "light", "randaugment", "autoaugment", "trivial"] | None,
        option(
            "--augment POLICY",
            _RECIPE,
            "Augmentation: none, light (RandomResizedCrop + horizontal flip), or light and then "
            "randaugment, autoaugment or trivial. [default: light, with --scratch autoaugment]",
        ),
    ] = None,
    freeze_backbone: Annotated[
        bool | None,
        option("--freeze-backbone/--no-freeze-backbone", _RECIPE, "Train the last layer only."),
    ] = None,
    class_weights: Annotated[
        bool | None,
        option(
            "--class-weights/--no-class-weights",
            _RECIPE,
            "Weight classes by the inverse of their number of images.",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        option("--precision", _RECIPE, "Autocast dtype; fp32 never uses TF32. [default: fp32]"),
    ] = None,
    seed: Annotated[
        int | None,
        option("--seed N", _RECIPE, "Random seed; the same seed gives the same run. [default: 0]"),
    ] = None,
    output: Annotated[
        Path | None,
        option("--output -o DIR", OUTPUT, "Folder of results. [default: trained/NAME OF DATA]"),
    ] = None,
    store: Annotated[
        Literal["fp32", "fp16"] | None,
        option("--store", OUTPUT, "Type of the stored weights; fp16 halves them. [default: fp32]"),
    ] = None,
    resume: Annotated[
        bool,
        option("--resume", OUTPUT, "Continue the run in --output; machine options may differ."),
    ] = False,
    overwrite: Annotated[
        bool, option("--overwrite", OUTPUT, "Replace the files of a run in --output.")
    ] = False,
    device: Annotated[
        str,
        option(
            "--device NAME",
            MACHINE,
            "auto, cpu, cuda, cuda:N or mps; auto uses CUDA if available, else mps, else cpu. For "
            "several GPUs start with torchrun.",
            complete=options.complete_device,
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        option(
            "--workers -j N",
            MACHINE,
            "Decoding processes; 0: the main process decodes. [default: chosen for the machine]",
            (0, 256),
        ),
    ] = None,
    torch_compile: options.Compile = False,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Train or fine-tune a model on class folders.

    Without --scratch trained weights are fine-tuned: those of --model or --weights. The output
    folder gets best.safetensors and last.safetensors, which 'resnest predict --model' takes,
    history.csv, curves.png and summary.json.

    Examples:

      resnest train photos/

      resnest train photos/ --model resnest101 --epochs 30 --freeze-backbone

      resnest train cifar/ --scratch --model resnest26 --width 0.4 --crop 64 --augment light

      resnest train photos/ --resume

      resnest train photos/ --recipe trained/photos/summary.json --output again

      torchrun --nproc-per-node 4 -m resnest_cli train photos/ --batch-size 256
    """
    secondary = is_secondary_process()
    set_verbosity(quiet=quiet or secondary, verbose=verbose and not secondary)
    from resnest_cli.training.run import train as run_training

    summary = run_training(
        data, model=model, weights=weights, scratch=scratch, width=width, crop=crop, val=val,
        val_fraction=val_fraction, check=check, teacher=teacher, recipe=recipe, epochs=epochs,
        batch_size=batch_size, lr=lr, augment=augment, freeze_backbone=freeze_backbone,
        class_weights=class_weights, precision=precision, seed=seed, output=output, store=store,
        resume=resume, overwrite=overwrite, device=device, workers=workers, offline=offline,
        torch_compile=torch_compile, progress=chosen_training_progress(quiet=quiet or secondary),
    )  # fmt: skip
    if is_main_process():
        best = summary.best
        typer.echo(f"best: {best.val_top1:.2f} % top-1 on the validation set (epoch {best.epoch})")
        typer.echo(f"  resnest predict IMAGE --model {summary.weights}")
    return 0
