"""`resnest train`: a folder of class folders to a checkpoint that `predict` takes."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import charts, folders
from resnest_cli.commands import options
from resnest_cli.commands import training_options as training
from resnest_cli.errors import OutputError, UsageError
from resnest_cli.files import claimed, writable_folder
from resnest_cli.processors import processors
from resnest_cli.terminal import (
    SUMMARY,
    DownloadBar,
    picture_bar,
    set_verbosity,
    stderr_is_terminal,
)
from resnest_cli.training import choices
from resnest_cli.training.recipe import Recipe, make_recipe
from resnest_cli.writers import printable

if TYPE_CHECKING:
    from resnest_cli.card import ModelCard
    from resnest_cli.folders import LabelledPictures
    from resnest_cli.training.distributed import Processes
    from resnest_cli.training.network import Beginning, NetworkOptions
    from resnest_cli.training.parts import Epoch
    from resnest_cli.training.trainer import Trainer

log = logging.getLogger(__name__)

STATE, ENDED, SKIPPED, HELD_OUT = "state.pt", "summary.json", "skipped.csv", "val.csv"
_RECORD = (
    "best.safetensors", "last.safetensors", "history.csv", "curves.png", STATE, ENDED, HELD_OUT,
    choices.FILE,
)  # fmt: skip
_NETWORK = (
    "model", "weights", "scratch", "width", "blocks", "crop", "resize", "interpolation", "name"
)  # fmt: skip
_HELD_OUT_SHARE = 0.1


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder of class folders, or one with train/ and val/ or test/ in it.",
            show_default=False,
        ),
    ],
    model: options.Model = None,
    weights: options.Weights = None,
    scratch: training.Scratch = False,
    width: training.Width = None,
    blocks: training.Blocks = None,
    crop: training.Crop = None,
    resize: training.Resize = None,
    interpolation: training.Interpolation = None,
    name: training.Name = None,
    val: training.Val = None,
    val_share: training.ValShare = None,
    no_check: training.NoCheck = False,
    epochs: training.Epochs = None,
    batch_size: training.BatchSize = None,
    lr: training.Lr = None,
    momentum: training.Momentum = None,
    weight_decay: training.WeightDecay = None,
    warmup_epochs: training.WarmupEpochs = None,
    label_smoothing: training.LabelSmoothing = None,
    mixup: training.Mixup = None,
    cutmix: training.Cutmix = None,
    augment: training.Augment = None,
    min_scale: training.MinScale = None,
    max_scale: training.MaxScale = None,
    resampling: training.Resampling = None,
    flip: training.Flip = None,
    dropout: training.Dropout = None,
    ema: training.Ema = None,
    clip_grad: training.ClipGrad = None,
    freeze: training.Freeze = None,
    balance: training.Balance = None,
    seed: training.Seed = None,
    output: training.Output = None,
    store: training.Store = None,
    resume: training.Resume = False,
    overwrite: training.Overwrite = False,
    precision: training.Precision = None,
    device: options.Device = "auto",
    workers: training.Workers = None,
    compiled: training.Compile = False,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Teach a network the classes of a folder.

    Without --scratch a variant's published weights (or --weights, or the bundled --model demo) are
    fine-tuned. The output folder gets best.safetensors and last.safetensors, which say all that
    'resnest predict --weights' must know, history.csv, curves.png and summary.json.

    Examples:

      resnest train photos/

      resnest train photos/ --model resnest101 --epochs 30 --freeze

      resnest train cifar/ --scratch --model resnest26 --width 0.4 --crop 64 --augment light

      resnest train photos/ --resume

      torchrun --nproc-per-node 4 -m resnest_cli train photos/ --batch-size 256
    """
    values: dict[str, Any] = locals()
    set_verbosity(quiet=quiet, verbose=verbose)
    charts.require_extra("matplotlib")
    folder = output or Path("trained") / data.resolve().name
    if _has_ended(folder, resume=resume, overwrite=overwrite):
        return 0
    chosen = _chosen(values, folder)
    recipe = make_recipe(
        scratch=bool(chosen["scratch"]), given={f.name: chosen[f.name] for f in fields(Recipe)}
    )
    train_folder, val_folder = folders.find_parts(data, chosen["val"])
    _check_apart(folder, train_folder, val_folder)
    pictures = folders.read_class_folders(train_folder)
    held_out = folders.read_class_folders(val_folder) if val_folder else None

    from resnest_cli.training.network import NetworkOptions
    from resnest_cli.training.prepare import parts, write_held_out

    wanted = NetworkOptions(**{name: chosen[name] for name in _NETWORK}, offline=offline)
    processes, device = _join(device)
    quiet = quiet or not processes.leads
    set_verbosity(quiet=quiet, verbose=verbose and processes.leads)
    writable_folder(folder)
    with processes, claimed(folder) if processes.leads else nullcontext():
        begun = _beginning(wanted, recipe, processes, chosen["batch_size"])
        pictures, held_out = _readable(pictures, held_out, folder, processes, chosen, quiet=quiet)
        share = chosen["val_share"] or _HELD_OUT_SHARE
        learn, check = parts(pictures, held_out, share, recipe.seed)
        if chosen["batch_size"] is None:
            recipe = replace(recipe, batch_size=_batch_size(recipe, len(learn), processes))
        trainer, card = _prepare(
            begun, learn, check, recipe, folder, device, processes, workers, compiled=compiled
        )
        _begin(trainer, folder, chosen, resume=resume)
        if val_folder is None and processes.leads:
            write_held_out(check, train_folder, folder / HELD_OUT)
        log.log(SUMMARY, "%s", _plan(card, learn, check, trainer))
        validation = str(val_folder) if val_folder else f"{share:g} of each class"
        facts = {"data": str(train_folder), "validation": validation, "begun_from": begun.origin}
        del begun  # and the tensors with it
        return _run(trainer, card, folder, facts | _facts(learn, check, trainer), quiet=quiet)


def _chosen(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The options that decide a run, None where not given; of one that is resumed they are its."""
    names = (*_NETWORK, "val", "val_share", "no_check", *(f.name for f in fields(Recipe)))
    given = {name: values[name] for name in names}
    given |= {name: given[name] or None for name in ("scratch", "no_check")}  # flags
    if values["resume"] and (kept := choices.take_up(folder, given)):
        return kept | {name: kept[name] and Path(kept[name]) for name in ("weights", "val")}
    return given | {"model": options.chosen_model(given["model"], given["weights"])}


def _join(device: str) -> tuple[Processes, str]:
    """This process's place among those of the run, and its device."""
    from resnest_cli.engines.torch_engine import resolve_device
    from resnest_cli.training.distributed import Processes

    device = resolve_device(device)
    processes = Processes.join(device)
    return processes, processes.own_device(device)


def _readable(
    pictures: LabelledPictures,
    held_out: LabelledPictures | None,
    folder: Path,
    processes: Processes,
    chosen: dict[str, Any],
    *,
    quiet: bool,
) -> tuple[LabelledPictures, LabelledPictures | None]:
    """The pictures that can be decoded; the others are listed. With `--no-check` all of them."""
    if chosen["no_check"]:
        return pictures, held_out
    if processes.leads and not set(_left(folder)) - {choices.FILE}:
        choices.keep(folder, chosen)  # this may take long, and be stopped
    bad = processes.agree(lambda: _unreadable(pictures, held_out, folder, quiet=quiet))
    return pictures.without(bad), held_out.without(bad) if held_out else held_out


def _beginning(
    wanted: NetworkOptions, recipe: Recipe, processes: Processes, batch_size: int | None
) -> Beginning:
    """What is to be trained, settled before any picture is read."""
    if batch_size is not None:
        processes.check_batch(batch_size, pairs=recipe.mixes)
    with DownloadBar(wanted.model or "resnest50") as bar:
        shown = stderr_is_terminal() and log.isEnabledFor(SUMMARY)
        return wanted.begin(freeze=recipe.freeze, on_progress=bar if shown else None)


def _prepare(
    begun: Beginning,
    learn: LabelledPictures,
    check: LabelledPictures,
    recipe: Recipe,
    folder: Path,
    device: str,
    processes: Processes,
    workers: int | None,
    *,
    compiled: bool,
) -> tuple[Trainer, ModelCard]:
    from resnest_cli.training.trainer import Trainer

    network, card = begun.network(learn.classes, recipe)
    trainer = Trainer(
        network, learn, check, recipe=recipe, preprocessing=card.preprocessing, device=device,
        workers=_workers(workers, device, processes), state_file=folder / STATE,
        processes=processes, compiled=compiled,
    )  # fmt: skip
    return trainer, card


def _facts(learn: LabelledPictures, check: LabelledPictures, trainer: Trainer) -> dict[str, Any]:
    """What the summary says besides the recipe."""
    return {
        "pictures": {"train": len(learn), "val": len(check)},
        "classes": dict(zip(learn.classes, learn.counts(), strict=True)),
        "device": trainer.device,
        "processes": trainer.processes.count,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }


def _begin(trainer: Trainer, folder: Path, chosen: dict[str, Any], *, resume: bool) -> None:
    """Clear what an earlier run left, or go on with it; one that left nothing begins anew."""
    agree = trainer.processes.agree
    there = _left(folder)
    if resume and agree(lambda: STATE in there):
        trainer.restore()
        log.log(SUMMARY, "going on in epoch %d of %d", trainer.at.epoch + 1, trainer.recipe.epochs)
        return
    weights = chosen["weights"]  # where they lie here they stay until an epoch gives better ones
    own = [n for n in there if weights and (folder / n).resolve() == weights.resolve()]
    if resume and agree(lambda: set(there) - {HELD_OUT, choices.FILE, *own}):
        raise OutputError(
            f"'{folder}' holds a run, but not its state ({STATE}), so it cannot be gone on with\n"
            "begin anew with --overwrite, or with --weights and another --output"
        )
    if resume:
        log.log(SUMMARY, "'%s' holds no run to go on with; this one begins", folder)
    if trainer.processes.leads:
        for name in {*there, *([SKIPPED] if chosen["no_check"] else [])} - set(own):
            (folder / name).unlink(missing_ok=True)
        choices.keep(folder, chosen)


def _run(
    trainer: Trainer, card: ModelCard, folder: Path, facts: dict[str, Any], *, quiet: bool
) -> int:
    """Train to the end, and leave the record."""
    from resnest_cli.training.record import Record
    from resnest_cli.training.view import TrainingView

    recipe, leads = trainer.recipe, trainer.processes.leads
    record = Record(folder, card)
    view = TrainingView(recipe.epochs) if stderr_is_terminal() and not quiet else None
    try:
        with view or nullcontext():
            for epoch in trainer.run(view.step if view else lambda _: None):
                if leads:
                    record.note(trainer.learned, trainer.at.history, half=recipe.store == "fp16")
                    log.log(SUMMARY, "%s", _line(epoch, recipe.epochs))
                if view:
                    view.epoch(epoch)
    except KeyboardInterrupt:
        log.log(SUMMARY, "interrupted; what is done is kept: --resume goes on")
        raise
    if leads:
        best = record.finish(trainer.at.history, facts)
        (folder / STATE).unlink(missing_ok=True)
        typer.echo(f"best: {best.val_top1:.2f} % top-1 on the validation part (epoch {best.epoch})")
        typer.echo(f"  resnest predict PICTURE --weights {record.best}")
    return 0


def _has_ended(folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether the run that is to be resumed is over.

    Raises:
        OutputError: the folder holds a run, and neither `--resume` nor `--overwrite` is given.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"'{folder}' is a file; give a folder with --output")
    if resume and (folder / ENDED).exists():
        log.log(
            SUMMARY,
            "the run in '%s' has ended; to train further, give --weights %s and another --output",
            folder,
            folder / "last.safetensors",
        )
        return True
    there = _left(folder)
    if set(there) - {choices.FILE} and not (resume or overwrite):
        raise OutputError(
            f"'{folder}' holds a training run already ({there[0]})\n"
            "go on with it: --resume; replace it: --overwrite; or another folder: --output"
        )
    return False


def _left(folder: Path) -> list[str]:
    """What a run has left in a folder."""
    return [name for name in _RECORD if (folder / name).exists()]


def _check_apart(folder: Path, train: Path, val: Path | None) -> None:
    """Raise `UsageError` if what a run leaves would lie among the pictures."""
    for data in (train, val):
        if data is not None and folder.resolve().is_relative_to(data.resolve()):
            raise UsageError(
                f"the output folder '{folder}' lies in '{data}', and would be taken for a class\n"
                "give a folder elsewhere with --output"
            )


def _unreadable(
    pictures: LabelledPictures, held_out: LabelledPictures | None, folder: Path, *, quiet: bool
) -> set[str]:
    from resnest_cli.training.prepare import unreadable

    count = len(pictures) + len(held_out or ())
    show = stderr_is_terminal() and not quiet
    bar = picture_bar(lambda: count, 0, "checking") if show else nullcontext(lambda: None)
    with bar as advance:
        return unreadable(
            pictures, held_out, folder / SKIPPED, workers=processors(), advance=advance
        )


def _batch_size(recipe: Recipe, pictures: int, processes: Processes) -> int:
    """The usual batch size; for few pictures less, so that an epoch has some steps."""
    parts = processes.count * 2
    fitting = max(1 << int(math.log2(max(pictures / 8, 1))), 8)
    return -(-min(recipe.batch_size, fitting) // parts) * parts


def _workers(given: int | None, device: str, processes: Processes) -> int:
    """Decoding processes: on a CPU few, as the network wants the processors."""
    if given is not None:
        return given
    share = max(processors() // processes.count, 1)
    return min(max(share // 4, 1), 4) if device == "cpu" else min(share, 12)


def _plan(
    card: ModelCard, learn: LabelledPictures, check: LabelledPictures, trainer: Trainer
) -> str:
    million = sum(p.numel() for p in trainer.network.parameters()) / 1e6
    return (
        f"{printable(card.name)}, {million:.2f} million parameters, {len(learn.classes):,} classes"
        f" · {len(learn):,} pictures to learn from, {len(check):,} to validate on"
        f" · {card.preprocessing.crop} pixels, {trainer.recipe.batch_size} a step,"
        f" {trainer.device}, {trainer.recipe.precision}"
    )


def _line(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  loss {epoch.train_loss:.4f}  "
        f"validation: loss {epoch.val_loss:.4f}, top-1 {epoch.val_top1:.2f} %  "
        f"{epoch.pictures_per_second:,.0f} pictures/s, {epoch.seconds:.0f} s"
    )
