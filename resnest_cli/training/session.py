"""One process's part in a training run: from the plan to the summary."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.datasets.repeats import FINGERPRINTS, Fingerprints, write_fingerprints
from resnest_cli.engines.torch_engine import resolve_device
from resnest_cli.files import write_csv
from resnest_cli.hardware import processors
from resnest_cli.model.checkpoint import save_checkpoint
from resnest_cli.outputs import charts
from resnest_cli.progress import SUMMARY
from resnest_cli.text import counted, printable
from resnest_cli.training.distill import load_teachers, mean_prediction
from resnest_cli.training.distributed import DistContext
from resnest_cli.training.initial_weights import InitialWeights
from resnest_cli.training.plan import Plan, reported_once
from resnest_cli.training.run_folder import HELD_OUT, RECIPE, REPEATED, SKIPPED, STATE
from resnest_cli.training.splits import (
    find_unreadable,
    separate,
    warn_of_repeats,
    write_held_out,
)
from resnest_cli.training.summary import EpochStats, TrainingProgress, TrainingSummary, best_epoch
from resnest_cli.training.trainer import Trainer, memory_errors
from resnest_cli.version import __version__

log = logging.getLogger(__name__)


class _Prepared(NamedTuple):
    """A run that is ready to train."""

    plan: Plan  # complete
    trainer: Trainer
    config: ModelConfig  # that the checkpoints will carry
    train: LabelledImages
    val: LabelledImages
    origin: str | None  # of the initial weights
    fingerprints: Fingerprints  # in the main process, if images were checked


def execute(plan: Plan, device: str, progress: TrainingProgress) -> TrainingSummary:
    """Join the other processes of the run, if any, and train to the end."""
    device = resolve_device(device)
    processes = DistContext.join(device)
    device = processes.own_device(device)
    with ExitStack() as held:
        with reported_once():
            processes.broadcast_from_main(lambda: plan.folder.claim(held))
        prepared = _prepare(plan, device, processes, progress)
        with reported_once():
            _start_or_resume(prepared.trainer, prepared.plan)
        if processes.is_main:
            _write_sets(prepared)
            log.log(SUMMARY, "%s", _description(prepared))
        _train(prepared, progress)
        summary = _summary(prepared)
        if processes.is_main:
            summary.write()
            (plan.folder.path / STATE).unlink(missing_ok=True)
            return TrainingSummary.read(plan.folder.path)
        return summary


def _write_sets(prepared: _Prepared) -> None:
    """Write what is known of the training and the validation set, and warn if they overlap."""
    plan, train, val, found = prepared.plan, prepared.train, prepared.val, prepared.fingerprints
    folder = plan.folder.path
    if plan.splits.val_folder is None:
        write_held_out(val, plan.data, folder / HELD_OUT)
    if found:
        write_fingerprints(folder / FINGERPRINTS, train.paths, found)
        warn_of_repeats(train, val, found, folder / REPEATED)


def _prepare(
    plan: Plan, device: str, processes: DistContext, progress: TrainingProgress
) -> _Prepared:
    recipe, compiled = plan.recipe, plan.torch_compile
    with reported_once():
        if recipe.batch_size:
            processes.check_batch_size(recipe.batch_size)
        initial = InitialWeights.load(recipe, offline=plan.offline, on_bytes=progress.download)
        teachers = load_teachers(recipe.teacher, plan.splits.images.used_classes)
        found: Fingerprints = {}
        plan = _without_unreadable(plan, processes, found, progress)
        train, val = separate(plan.splits, recipe.val_fraction or 0.0, recipe.seed)
    batch_size = recipe.batch_size or _batch_size(len(train), processes.world_size)
    recipe = replace(recipe, batch_size=batch_size)
    network, config = initial.network(train.classes, recipe)
    shown = config.preprocessing
    with memory_errors(
        f"on {device} for {config.name}", "other programs may be using it: use another `device`"
    ):
        teacher = mean_prediction(teachers, train.classes, shown, device, torch_compile=compiled)
        trainer = Trainer(
            network, train, val, recipe=recipe, preprocessing=shown, device=device,
            workers=_workers(plan, device, processes.world_size),
            state_file=plan.folder.path / STATE, processes=processes,
            teacher=teacher, torch_compile=compiled,
        )  # fmt: skip
    plan = replace(plan, recipe=recipe)
    return _Prepared(plan, trainer, config, train, val, initial.origin, found)


def _without_unreadable(
    plan: Plan, processes: DistContext, found: Fingerprints, progress: TrainingProgress
) -> Plan:
    """The plan without the images that cannot be decoded, unless they are not to be checked.

    In the main process the fingerprints of the others are added to `found`.
    """
    if processes.is_main and not set(plan.folder.existing()) - {RECIPE}:
        plan.folder.save(plan.recipe)  # the check may take long, and be interrupted
    if not plan.recipe.check:
        return plan
    record = plan.folder.path / SKIPPED
    bad = processes.broadcast_from_main(
        lambda: find_unreadable(plan.splits, record, found, progress)
    )
    return replace(plan, splits=plan.splits.without(bad))


def _batch_size(images: int, processes: int) -> int:
    """The usual 64 images per step, or less for few, so that an epoch has some steps."""
    fitting = min(max(1 << int(math.log2(max(images / 8, 1))), 8), 64)
    return -(-fitting // processes) * processes


def _workers(plan: Plan, device: str, processes: int) -> int:
    """Decoding processes: few on a CPU, where the network needs the processors."""
    if plan.workers is not None:
        return plan.workers
    available = max(processors() // processes, 1)
    return min(max(available // 4, 1), 4) if device == "cpu" else min(available, 12)


def _start_or_resume(trainer: Trainer, plan: Plan) -> None:
    """Restore the state of the run, or remove what an earlier run left; store the recipe."""
    processes, folder = trainer.processes, plan.folder
    if folder.resume and STATE in processes.broadcast_from_main(folder.existing):
        trainer.restore()
        if processes.is_main:
            epoch, epochs = trainer.progress.epoch + 1, trainer.recipe.epochs
            log.log(SUMMARY, "resuming in epoch %d of %d", epoch, epochs)
    else:
        processes.broadcast_from_main(lambda: folder.clear(plan.recipe))
    if processes.is_main:
        folder.save(plan.recipe)


def _train(prepared: _Prepared, progress: TrainingProgress) -> None:
    """Train to the end, and write the results of each epoch."""
    trainer = prepared.trainer
    try:
        for stats in trainer.run(progress.step):
            if trainer.processes.is_main:
                _write_results(prepared)
                log.log(SUMMARY, "%s", _epoch_line(stats, trainer.recipe.epochs))
            progress.epoch(stats)
    except KeyboardInterrupt:
        if trainer.processes.is_main:
            log.log(SUMMARY, "interrupted; progress is saved, `resume` continues")
        raise
    finally:
        progress.finish()


def _write_results(prepared: _Prepared) -> None:
    """Write the checkpoints, the history and the learning curves after an epoch."""
    trainer, config, folder = prepared.trainer, prepared.config, prepared.plan.folder.path
    history, half = trainer.progress.history, trainer.recipe.store == "fp16"
    best = best_epoch(history)
    for name in ("last", *(["best"] if best is history[-1] else [])):
        save_checkpoint(folder / f"{name}.safetensors", trainer.eval_model, config, half=half)
    _write_history(folder / "history.csv", history)
    charts.draw_curves(
        folder / "curves.png",
        losses={
            "training": [row.train_loss for row in history],
            "validation": [row.val_loss for row in history],
        },
        top1=[row.val_top1 for row in history],
        best=best.epoch,
        title=config.name,
    )


def _write_history(file: Path, history: list[EpochStats]) -> None:
    rows = (
        [f"{value:.6g}" if isinstance(value, float) else value for value in asdict(row).values()]
        for row in history
    )
    write_csv(file, [field.name for field in fields(EpochStats)], rows)


def _summary(prepared: _Prepared) -> TrainingSummary:
    plan, trainer, config, train, val, origin, _ = prepared
    history, folder = trainer.progress.history, plan.splits.val_folder
    return TrainingSummary(
        folder=plan.folder.path,
        name=config.name,
        tool=f"resnest {__version__}",
        best=best_epoch(history),
        last=history[-1],
        seconds=round(sum(row.seconds for row in history), 1),
        data=str(plan.splits.folder),
        validation=str(folder) if folder else f"{plan.recipe.val_fraction} of each class",
        initial_weights=origin,
        images={"train": len(train), "val": len(val)},
        classes=dict(zip(train.classes, train.counts(), strict=True)),
        device=trainer.device,
        processes=trainer.processes.world_size,
        parameters=_parameters(trainer),
        architecture=asdict(config.architecture),
        preprocessing=config.preprocessing.as_dict(),
        recipe=plan.recipe.as_dict(),
    )


def _parameters(trainer: Trainer) -> int:
    return sum(p.numel() for p in trainer.network.parameters())


def _description(prepared: _Prepared) -> str:
    config, trainer, train = prepared.config, prepared.trainer, prepared.train
    return (
        f"{printable(config.name)}, {_parameters(trainer) / 1e6:.2f} million parameters,"
        f" {counted(len(train.classes), 'class')}"
        f" · training set {counted(len(train), 'image')},"
        f" validation set {counted(len(prepared.val), 'image')}"
        f" · {config.preprocessing.crop} pixels, batches of {trainer.recipe.batch_size},"
        f" {trainer.device}, {trainer.recipe.precision}"
    )


def _epoch_line(stats: EpochStats, epochs: int) -> str:
    return (
        f"epoch {stats.epoch:>{len(str(epochs))}}/{epochs}  loss {stats.train_loss:.4f}  "
        f"validation: loss {stats.val_loss:.4f}, top-1 {stats.val_top1:.2f} %  "
        f"{stats.images_per_second:,.0f} images/s, {stats.seconds:.0f} s"
    )
