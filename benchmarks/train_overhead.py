"""Images per second of the trainer against a bare loop on tensors that are ready.

    python benchmarks/train_overhead.py FOLDER [--model resnest14] [--width 0.5] [--crop 64]

FOLDER holds class folders. Both train the same network, with the same batch, precision, loss and
optimizer, in turn in one process; the median ratio is printed. The trainer also decodes, augments,
normalises and mixes images, averages weights and keeps count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from resnest_cli.catalog.variants import Architecture, get_variant
from resnest_cli.datasets import class_folders
from resnest_cli.model.resnest import ResNeSt, initialise
from resnest_cli.training.recipe import Recipe, make_recipe
from resnest_cli.training.summary import Step
from resnest_cli.training.trainer import Trainer

AHEAD = 8  # batches that are decoded while the workers start


def network(architecture: Architecture, classes: int) -> ResNeSt:
    torch.manual_seed(0)
    made = ResNeSt(architecture, num_classes=classes)
    initialise(made)
    return made.to(memory_format=torch.channels_last).train()


def bare(model: ResNeSt, crop: int, recipe: Recipe, steps: int) -> float:
    """Images per second of forward, backward and optimiser."""
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


def trained(trainer: Trainer) -> float:
    """Images per second of the trainer, in the steps of its first epoch."""
    timed: list[tuple[int, float]] = []  # not every step is reported

    def note(step: Step) -> None:
        if step.step >= AHEAD:
            timed.append((step.step, time.perf_counter()))

    next(trainer.run(note))
    if len(timed) < 2:
        raise SystemExit("the steps are over before they can be timed: give more --steps")
    first, last = timed[0], timed[-1]
    return trainer.recipe.batch_size * (last[0] - first[0]) / (last[1] - first[1])


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
    images = class_folders.read_class_folders(a.folder)
    options = {"batch_size": a.batch_size, "precision": a.precision, "augment": a.augment}
    recipe = make_recipe({"scratch": True, "model": a.model, **options})
    view = replace(variant.preprocessing, crop=a.crop, resize=a.crop)
    rates: list[tuple[float, float]] = []
    for _ in range(a.runs):
        plain = bare(network(architecture, len(images.classes)), a.crop, recipe, a.steps)
        train, val = class_folders.split(images, 0.1, 0)
        wanted = (a.steps + AHEAD) * a.batch_size
        every = len(train) // wanted
        if not every:
            raise SystemExit(f"{wanted:,} images to train on are needed, not {len(train):,}")
        trainer = Trainer(
            network(architecture, len(images.classes)),
            train.select(range(0, every * wanted, every)),
            val.select(range(0, len(val), 20)),
            recipe=recipe,
            preprocessing=view,
            workers=a.workers,
        )
        rates.append((trained(trainer), plain))
        print("trainer {:.1f}/s; bare loop {:.1f}/s".format(*rates[-1]), flush=True)
    print(f"median ratio: {statistics.median(ours / bare for ours, bare in rates):.3f}")


if __name__ == "__main__":
    main()
