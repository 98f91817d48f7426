"""A minute of fine-tuning the bundled network against a minute of training from scratch.

    python benchmarks/fine_tune.py CIFAR10_TRAIN_FOLDER [--seconds 60] [--precision bf16]

Two new classes, pets (cat, dog) and grazers (deer, horse), are made of CIFAR-10 images that were
held out when the bundled network was trained: the tenth that `--seed 0` splits off. Eight tenths of
them are trained on, the rest validates. Both runs are whole commands, start included, and as many
epochs as fit the time.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from resnest_cli.datasets import class_folders

GROUPS = {"pets": ("cat", "dog"), "grazers": ("deer", "horse")}


def lay_out(cifar: Path, target: Path) -> int:
    """Links to the held-out images, in folders of the new classes; how many there are."""
    _, held_out = class_folders.split(class_folders.read_class_folders(cifar), 0.1, 0)
    count = 0
    for path, index in zip(held_out.paths, held_out.targets, strict=True):
        name = held_out.classes[index]
        for group, members in GROUPS.items():
            if name in members:
                (target / group).mkdir(parents=True, exist_ok=True)
                (target / group / f"{name}-{Path(path).name}").symlink_to(Path(path).resolve())
                count += 1
    return count


def train(data: Path, output: Path, epochs: int, options: list[str]) -> tuple[float, float, float]:
    """Of one run: seconds, those of its last epoch, and validation top-1, per cent."""
    command = [sys.executable, "-m", "resnest_cli", "train", data, "-o", output, "--overwrite"]
    command += ["--epochs", epochs, "--val-fraction", 0.2, "-q", *options]
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    seconds = time.perf_counter() - start
    with (output / "history.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    return seconds, float(last["seconds"]), float(last["val_top1"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--precision", default="fp32")
    a = parser.parse_args()
    scratch = "--scratch --model resnest14 --width 0.5 --crop 64 --augment light --recipe".split()
    with tempfile.TemporaryDirectory() as folder:
        data, recipe = Path(folder) / "data", Path(folder) / "scratch.yaml"
        recipe.write_text("{resize: 64, mixup: 0, min_scale: 0.35}")
        runs = {
            "head only": ["--model", "demo", "--freeze-backbone"],
            "whole network": ["--model", "demo"],
            "from scratch": [*scratch, str(recipe)],
        }
        print(f"{lay_out(a.cifar, data):,} images of two new classes")
        for name, options in runs.items():
            options += ["--precision", a.precision]
            epochs, top1 = 3, 0.0
            seconds, epoch, _ = train(data, Path(folder) / "out", epochs, options)
            epochs = max(epochs + int((a.seconds - seconds) / epoch), 1)
            seconds = math.inf
            while seconds > a.seconds and epochs:
                seconds, epoch, top1 = train(data, Path(folder) / "out", epochs, options)
                over = max(seconds - a.seconds, 0)
                last, epochs = epochs, max(epochs - 1 - int(over / epoch), 0)
            print(f"{name}: {top1:.2f} % after {last} epochs, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
