"""Pictures per second of the trainer against a bare loop on tensors that are ready.

    python benchmarks/train_overhead.py FOLDER [--model resnest14] [--width 0.5] [--crop 64]

FOLDER holds class folders. Both train the same network, with the same batch, precision, loss and
optimiser, in turn in one process; the median ratios are printed. What the trainer does besides is
decode, augment, normalise, average weights and keep count. Small pictures it decodes once, so an
epoch's rate is that of the second one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from resnest_cli import folders
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.training.parts import Step
from resnest_cli.training.recipe import Recipe, make_recipe
from resnest_cli.training.trainer import Trainer
from resnest_cli.variants import Architecture, get_variant

AHEAD = 8  # batches that are decoded while workers start, or while it validates


def network(architecture: Architecture, classes: int) -> ResNeSt:
    torch.manual_seed(0)
    made = ResNeSt(architecture, num_classes=classes)
    initialise(made)
    return made.to(memory_format=torch.channels_last).train()


def bare(model: ResNeSt, crop: int, recipe: Recipe, steps: int) -> float:
    """Pictures per second of forward, backward and optimiser."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(recipe.batch_size, 3, crop, crop, generator=generator)
    pixels = pixels.to(memory_format=torch.channels_last)
    targets = torch.randint(0, model.num_classes, (recipe.batch_size,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
    start = 0.0
    for step in range(steps + 2):
        if step == 2:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = model(pixels)
        F.cross_entropy(logits.float(), targets, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * recipe.batch_size / (time.perf_counter() - start)


def trained(trainer: Trainer) -> tuple[float, float]:
    """Pictures per second of the trainer, in the first and in the second epoch."""
    noted: list[list[tuple[int, float]]] = [[], []]  # not at every step

    class Enough(Exception):
        pass

    def note(step: Step) -> None:
        if step.step >= AHEAD:
            noted[step.epoch - 1].append((step.step, time.perf_counter()))
        if step.epoch == 2 and step.step == step.steps:
            raise Enough

    try:
        for _ in trainer.run(note):
            pass
    except Enough:
        pass
    if any(len(epoch) < 2 for epoch in noted):
        raise SystemExit("the steps are over before they can be timed: give more --steps")
    first, second = (
        trainer.recipe.batch_size * (end[0] - begin[0]) / (end[1] - begin[1])
        for begin, *_, end in noted
    )
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="resnest14")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--augment", default="light")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    a = parser.parse_args()
    variant = get_variant(a.model)
    architecture = replace(variant.architecture, width=a.width)
    pictures = folders.read_class_folders(a.folder)
    given = {"batch_size": a.batch_size, "precision": a.precision, "augment": a.augment}
    recipe = make_recipe(scratch=True, given=given)
    view = replace(variant.preprocessing, crop=a.crop, resize=a.crop)
    rates: list[tuple[float, float, float]] = []
    for _ in range(a.runs):
        plain = bare(network(architecture, len(pictures.classes)), a.crop, recipe, a.steps)
        train, val = folders.split(pictures, 0.1, 0)
        wanted = (a.steps + AHEAD) * a.batch_size
        every = len(train) // wanted
        if not every:
            raise SystemExit(f"{wanted:,} pictures to train on are needed, not {len(train):,}")
        trainer = Trainer(
            network(architecture, len(pictures.classes)),
            train.select(range(0, every * wanted, every)),
            val.select(range(0, len(val), 20)),
            recipe=recipe,
            preprocessing=view,
            workers=a.workers,
        )
        rates.append((*trained(trainer), plain))
        print("trainer {:.1f}/s, then {:.1f}/s; bare loop {:.1f}/s".format(*rates[-1]), flush=True)
    for number, name in enumerate(("first", "second")):
        ratio = statistics.median(rate[number] / rate[2] for rate in rates)
        print(f"median ratio, {name} epoch: {ratio:.3f}")


if __name__ == "__main__":
    main()
