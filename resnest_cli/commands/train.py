"""`resnest train`: a folder of class folders to a checkpoint that `predict` takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import charts, digests, folders
from resnest_cli.commands import options
from resnest_cli.commands import training_options as training
from resnest_cli.errors import ResNeStError
from resnest_cli.files import claimed, writable_folder
from resnest_cli.processors import follows_another, processors
from resnest_cli.terminal import (
    SUMMARY,
    DownloadBar,
    picture_bar,
    set_verbosity,
    stderr_is_terminal,
)
from resnest_cli.training.folder import HELD_OUT, OPTIONS, SKIPPED, STATE, RunFolder
from resnest_cli.training.prepare import Found, find, parts, unreadable, write_held_out
from resnest_cli.training.recipe import Recipe, check_used, make_recipe
from resnest_cli.writers import printable

if TYPE_CHECKING:
    from resnest_cli.card import ModelCard
    from resnest_cli.folders import LabelledPictures
    from resnest_cli.model.load import Loaded
    from resnest_cli.training.distributed import Processes
    from resnest_cli.training.network import Beginning, NetworkOptions
    from resnest_cli.training.parts import Epoch
    from resnest_cli.training.trainer import Trainer

log = logging.getLogger(__name__)

_NETWORK = (
    "model", "weights", "scratch", "width", "blocks", "crop", "resize", "interpolation", "name"
)  # fmt: skip
_RECIPE = tuple(f.name for f in fields(Recipe) if f.name != "teachers")
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
    teacher: training.Teacher = None,
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
    follows = follows_another()
    quiet = quiet or follows
    set_verbosity(quiet=quiet, verbose=verbose and not follows)
    charts.require_extra("matplotlib")
    folder = RunFolder(output or Path("trained") / data.resolve().name)
    with _told_once(follows):
        if folder.has_ended(resume=resume, overwrite=overwrite):
            return 0
        if not resume:
            check_used(values)
        chosen = _chosen(values, folder)
        folder.check_not_replaced(chosen["teacher"] or ())
        recipe = _recipe(chosen)
        found = find(data, chosen["val"], val_share, folder.path)
        chosen |= {name: getattr(recipe, name) for name in _RECIPE if name != "batch_size"}
        wanted = _wanted(chosen, offline=offline)
    processes, device = _join(device)
    quiet = quiet or not processes.leads
    set_verbosity(quiet=quiet, verbose=verbose and processes.leads)
    with processes, ExitStack() as held:
        with _told_once(follows):
            processes.agree(lambda: _claim(folder, held))
            begun = _beginning(wanted, recipe, processes, chosen["batch_size"])
            teachers, recipe = _teachers(chosen["teacher"], found.pictures, recipe)
            found = _readable(found, folder, processes, chosen, quiet=quiet)
            learn, check = parts(found.pictures, found.held_out, chosen["val_share"], recipe.seed)
        if chosen["batch_size"] is None:
            recipe = replace(recipe, batch_size=_batch_size(recipe, len(learn), processes))
        trainer, card = _prepare(
            begun, teachers, learn, check, recipe=recipe, device=device, processes=processes,
            workers=_workers(workers, device, processes), state_file=folder.path / STATE,
            compiled=compiled,
        )  # fmt: skip
        _begin(trainer, folder, chosen | {"batch_size": recipe.batch_size}, resume=resume)
        if found.val_folder is None and processes.leads:
            write_held_out(check, data, folder.path / HELD_OUT)
        log.log(SUMMARY, "%s", _plan(card, learn, check, trainer))
        facts = _facts(found, chosen["val_share"], begun.origin, teachers)
        facts |= _measures(learn, check, trainer)
        del begun  # and the tensors with it
        return _run(trainer, card, folder, facts, quiet=quiet)


@contextmanager
def _told_once(follows: bool) -> Iterator[None]:
    """Where all of a machine's processes meet the same error, the first one tells it."""
    try:
        yield
    except ResNeStError as error:
        if follows:
            raise typer.Exit(error.exit_code) from error
        raise


def _claim(folder: RunFolder, held: ExitStack) -> None:
    writable_folder(folder.path)
    held.enter_context(claimed(folder.path))


def _chosen(values: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """The options that decide a run, None where not given; of one that is resumed they are its."""
    names = (*_NETWORK, "val", "val_share", "no_check", "teacher", *_RECIPE)
    given = {name: values[name] for name in names}
    given |= {name: given[name] or None for name in ("scratch", "no_check", "teacher")}
    given["model"] = options.own_name(given["model"])
    if values["resume"] and (kept := folder.kept(given)):
        paths = {name: kept[name] and Path(kept[name]) for name in ("weights", "val")}
        given = kept | paths | {"teacher": [Path(file) for file in kept["teacher"] or ()]}
    else:
        given["model"] = options.own_name(options.chosen_model(given["model"], given["weights"]))
    return given | {"val_share": given["val_share"] or _HELD_OUT_SHARE}


def _wanted(chosen: dict[str, Any], *, offline: bool) -> NetworkOptions:
    from resnest_cli.training.network import NetworkOptions

    return NetworkOptions(**{name: chosen[name] for name in _NETWORK}, offline=offline)


def _recipe(chosen: dict[str, Any]) -> Recipe:
    given = {name: chosen[name] for name in _RECIPE}
    if chosen["teacher"] and given["label_smoothing"] is None:
        given["label_smoothing"] = 0.0  # there are no labels to smooth
    return make_recipe(scratch=bool(chosen["scratch"]), given=given)


def _teachers(
    files: list[Path] | None, pictures: LabelledPictures, recipe: Recipe
) -> tuple[list[Loaded], Recipe]:
    """The networks to learn from, and the recipe that names them."""
    from resnest_cli.training.teachers import read_teachers

    classes = folders.without_empty_classes(pictures)[0].classes
    teachers = read_teachers(files or [], classes)
    return teachers, replace(recipe, teachers=tuple(digests.of(t.path) for t in teachers))


def _join(device: str) -> tuple[Processes, str]:
    """This process's place among those of the run, and its device."""
    from resnest_cli.engines.torch_engine import resolve_device
    from resnest_cli.training.distributed import Processes

    device = resolve_device(device)
    processes = Processes.join(device)
    return processes, processes.own_device(device)


def _readable(
    found: Found, folder: RunFolder, processes: Processes, chosen: dict[str, Any], *, quiet: bool
) -> Found:
    """The pictures that can be decoded; the others are listed. With `--no-check` all of them."""
    if chosen["no_check"]:
        return found
    if processes.leads and not set(folder.left()) - {OPTIONS}:
        folder.keep(chosen)  # this may take long, and be stopped
    pictures, held_out = found.pictures, found.held_out
    bad = processes.agree(lambda: _unreadable(pictures, held_out, folder, quiet=quiet))
    return found._replace(
        pictures=pictures.without(bad), held_out=held_out.without(bad) if held_out else held_out
    )


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
    teachers: list[Loaded],
    learn: LabelledPictures,
    check: LabelledPictures,
    *,
    recipe: Recipe,
    device: str,
    compiled: bool,
    **options: Any,
) -> tuple[Trainer, ModelCard]:
    """A network in training, and the card that its checkpoints will carry."""
    from resnest_cli.training.teachers import Teachers
    from resnest_cli.training.trainer import Trainer

    network, card = begun.network(learn.classes, recipe)
    shown = card.preprocessing
    asked = Teachers(teachers, learn.classes, shown, device, compiled=compiled)
    trainer = Trainer(
        network, learn, check, recipe=recipe, preprocessing=shown, device=device,
        teachers=asked if teachers else None, compiled=compiled, **options,
    )  # fmt: skip
    return trainer, card


def _facts(
    found: Found, share: float, origin: str | None, teachers: list[Loaded]
) -> dict[str, Any]:
    """What the summary says of where a run began, besides the recipe."""
    return {
        "data": printable(str(found.folder)),
        "validation": printable(str(found.val_folder or f"{share:g} of each class")),
        "begun_from": origin and printable(origin),
        "teachers": [printable(str(teacher.path)) for teacher in teachers],
    }


def _measures(learn: LabelledPictures, check: LabelledPictures, trainer: Trainer) -> dict[str, Any]:
    """What the summary says of its size."""
    return {
        "pictures": {"train": len(learn), "val": len(check)},
        "classes": dict(zip(learn.classes, learn.counts(), strict=True)),
        "device": trainer.device,
        "processes": trainer.processes.count,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }


def _begin(trainer: Trainer, folder: RunFolder, chosen: dict[str, Any], *, resume: bool) -> None:
    """Clear what an earlier run left, or go on with it; one that left nothing begins anew."""
    processes, weights = trainer.processes, chosen["weights"]
    there = processes.agree(folder.left)
    if resume and STATE in there:
        trainer.restore()
        log.log(SUMMARY, "going on in epoch %d of %d", trainer.at.epoch + 1, trainer.recipe.epochs)
    else:
        if resume:
            folder.check_no_state_is_missing(there, weights)
        if processes.leads:
            folder.clear(weights, skipped=bool(chosen["no_check"]))
    if processes.leads:
        folder.keep(chosen)


def _run(
    trainer: Trainer, card: ModelCard, folder: RunFolder, facts: dict[str, Any], *, quiet: bool
) -> int:
    """Train to the end, and leave the record."""
    from resnest_cli.training.record import Record
    from resnest_cli.training.view import TrainingView

    recipe, leads = trainer.recipe, trainer.processes.leads
    record = Record(folder.path, card)
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
        (folder.path / STATE).unlink(missing_ok=True)
        typer.echo(f"best: {best.val_top1:.2f} % top-1 on the validation part (epoch {best.epoch})")
        typer.echo(f"  resnest predict PICTURE --weights {record.best}")
    return 0


def _unreadable(
    pictures: LabelledPictures, held_out: LabelledPictures | None, folder: RunFolder, *, quiet: bool
) -> set[str]:
    count = len(pictures) + len(held_out or ())
    show = stderr_is_terminal() and not quiet
    bar = picture_bar(lambda: count, 0, "checking") if show else nullcontext(lambda: None)
    with bar as advance:
        return unreadable(
            pictures, held_out, folder.path / SKIPPED, workers=processors(), advance=advance
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
