"""Whole processes, in turn, against timm with the same weights and images.

    python benchmarks/compare.py CHECKPOINT FOLDER [--runs 3] [--images 1000] [--only cold ...]
        [--precision fp32 ...]

CHECKPOINT is a resnest50 state dict; FOLDER holds images, which are linked to as often as it
takes. Printed are medians of seconds, of peak memory, and of the ratios round by round. timm and
openvino must be installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

# timm's documented way to one image
SNIPPET = """
import sys, timm, torch
from PIL import Image
model = timm.create_model("resnest50d", checkpoint_path=sys.argv[1]).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
with torch.no_grad():
    out = model(transform(Image.open(sys.argv[2]).convert("RGB")).unsqueeze(0))
probabilities, indices = torch.topk(out.softmax(1)[0], 5)
print(indices.tolist(), probabilities.tolist())
"""
# a folder in timm as its inference.py does it: create_loader, two workers, batches of 32, eager
LOOP = """
import sys, timm, torch
from timm.data import ImageDataset, create_loader, resolve_data_config
model = timm.create_model("resnest50d", checkpoint_path=sys.argv[1]).eval()
dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[3]]
model = model.to(dtype)
config = resolve_data_config({}, model=model)
loader = create_loader(
    ImageDataset(sys.argv[2]), config["input_size"], 32, use_prefetcher=True, num_workers=2,
    interpolation=config["interpolation"], mean=config["mean"], std=config["std"],
    crop_pct=config["crop_pct"], device=torch.device("cpu"), img_dtype=dtype,
)
found = []
with torch.inference_mode():
    for images, _ in loader:
        out = model(images).float().softmax(-1)
        probabilities, indices = out.topk(5)
        found += zip(indices.tolist(), probabilities.tolist())
import csv
csv.writer(open(sys.argv[4], "w")).writerows(found)
"""
# a folder, with all that belongs to it, against the engine on pixels that are ready, in turn
ALONE = """
import statistics, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from PIL import Image
from resnest_cli import Classifier
checkpoint, folder, engine, precision, rounds = sys.argv[1:]
classifier = Classifier("resnest50", weights=checkpoint, engine=engine, precision=precision)
paths = sorted(Path(folder).iterdir())
view = classifier.preprocessing
ready = np.stack([view.pixels(Image.open(path).convert("RGB")) for path in paths[:64]])
ready = np.concatenate([ready] * -(-len(paths) // len(ready)))[: len(paths)]
def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
network = classifier.engine
parts = [ready[i : i + classifier.batch_size] for i in range(0, len(ready), classifier.batch_size)]
def alone():
    with ThreadPoolExecutor(network.max_in_flight) as threads:
        list(threads.map(network.run, parts))
def whole():
    for result in classifier.stream(paths):
        pass
network.run(parts[0])
pairs = [(seconds(alone), seconds(whole)) for _ in range(int(rounds))]
rates = [len(paths) / statistics.median(times) for times in zip(*pairs)]
ratios = [round(a / b, 2) for a, b in pairs]
print(f"{engine} {precision}: alone {rates[0]:.1f}/s, whole {rates[1]:.1f}/s; ratios {ratios}")
"""
RUNS = (
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("torch", "fp32"),
    ("torch", "bf16"),
)
PYTHON = [sys.executable, "-W", "ignore"]


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    megabytes: float  # its peak of resident memory

    @classmethod
    def of(cls, command: list[str]) -> Cost:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
        if p.returncode not in (0, 3):
            raise SystemExit(f"failed with {p.returncode}: {command}")
        return cls(time.perf_counter() - start, usage.ru_maxrss / 1024)


@dataclass(frozen=True)
class Bench:
    """Where things are, and how often to run them."""

    checkpoint: str
    images: list[Path]
    work: Path
    runs: int
    count: int
    precisions: list[str]

    def engines(self) -> Iterator[tuple[str, str]]:
        """Engines and precisions to run, without what this processor has no instructions for."""
        from resnest_cli.engines.openvino.runtime import supported_precisions

        for engine, precision in RUNS:
            if engine == "openvino" and precision not in supported_precisions():
                print(f"openvino does not compute in {precision} here")
            elif precision in self.precisions:
                yield engine, precision

    def predict(self, *arguments: str) -> list[str]:
        command = [*PYTHON, "-m", "resnest_cli", "predict", "-m", "resnest50", "-f", "csv"]
        return [*command, "--weights", self.checkpoint, *arguments]

    def folder(self, count: int) -> str:
        """A folder with that many links to the images."""
        folder = self.work / f"links{count}"
        if not folder.exists():
            folder.mkdir()
            for number, image in enumerate(islice(cycle(self.images), count)):
                (folder / f"{number:06}{image.suffix}").symlink_to(image.resolve())
        return str(folder)

    def fresh_home(self) -> None:
        os.environ["RESNEST_HOME"] = str(self.work / "home")
        shutil.rmtree(self.work / "home", ignore_errors=True)

    def in_turn(self, title: str, commands: dict[str, list[str]], images: int = 1) -> None:
        """Run commands in turn; each but timm's is compared with timm's of its round."""
        rounds = [{run: Cost.of(c) for run, c in commands.items()} for _ in range(self.runs)]
        for run in commands:
            costs = [costs[run] for costs in rounds]
            seconds = statistics.median(cost.seconds for cost in costs)
            size = statistics.median(cost.megabytes for cost in costs)
            rate = f", {images / seconds:.1f} images/s" if images > 1 else ""
            said = [f"{title}, {run}: {seconds:.2f} s{rate}, {size:.0f} MB"]
            for timm in (name for name in commands if name.startswith("timm") and name != run):
                pairs = [(costs[run], costs[timm]) for costs in rounds]
                ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
                memory = statistics.median(a.megabytes / b.megabytes for a, b in pairs)
                said.append(f"to {timm} {ratio:.3f} (x{1 / ratio:.2f}), memory {memory:.2f}")
            print("; ".join(said), flush=True)


def cold(b: Bench) -> None:
    """One image, second run onwards."""
    b.fresh_home()
    one = str(b.images[0])
    ours = b.predict(one)
    timm = [*PYTHON, "-c", SNIPPET, b.checkpoint, one]
    Cost.of(ours)  # compiles
    Cost.of(timm)  # reads the files that are read again
    b.in_turn("one image", {"ours": ours, "timm": timm})


def folder(b: Bench) -> None:
    """A folder on each engine and precision against timm's loop."""
    b.fresh_home()
    files, out = b.folder(b.count), str(b.work / "timm.csv")
    commands = {}
    for engine, precision in b.engines():
        options = ("--engine", engine, "--precision", precision, "-q")
        Cost.of(b.predict(b.folder(32), *options))  # compiles
        commands[f"{engine} {precision}"] = b.predict(files, *options)
    for precision in b.precisions:
        loop = [*PYTHON, "-c", LOOP, b.checkpoint, files, precision, out]
        commands[f"timm {precision}"] = loop
    b.in_turn(f"folder of {b.count:,}", commands, b.count)


def alone(b: Bench) -> None:
    """What reading, preparing and waiting take beside the engine."""
    b.fresh_home()
    for engine, precision in b.engines():
        one = b.predict(str(b.images[0]), "--engine", engine, "--precision", precision)
        Cost.of(one)  # compiles
        what = (b.checkpoint, b.folder(b.count), engine, precision, str(b.runs))
        subprocess.run([*PYTHON, "-c", ALONE, *what], check=True)


def memory(b: Bench) -> None:
    """Peak memory of many images and of few, with a small network, beside which it would show."""
    b.fresh_home()
    peaks = []
    command = [*PYTHON, "-m", "resnest_cli", "predict", "-m", "demo", "-f", "csv", "-q"]
    Cost.of([*command, b.folder(500)])  # compiles
    for count in (500, 20_000):
        cost = Cost.of([*command, b.folder(count)])
        peaks.append(cost.megabytes)
        print(f"{count:,} images: peak {cost.megabytes:.0f} MB, {cost.seconds:.0f} s", flush=True)
    print(f"memory ratio {peaks[1] / peaks[0]:.3f}", flush=True)


def first(b: Bench) -> None:
    """A first use, in which the network is compiled."""
    seconds = []
    for _ in range(b.runs):
        b.fresh_home()
        seconds.append(Cost.of(b.predict(str(b.images[0]), "--engine", "openvino")).seconds)
    print(f"first use, compiling: {statistics.median(seconds):.2f} s", flush=True)


def starts(b: Bench) -> None:
    """Commands that need no network."""
    for arguments in (["--help"], ["list-models"], ["--version"]):
        command = [*PYTHON, "-m", "resnest_cli", *arguments]
        seconds = [Cost.of(command).seconds for _ in range(3 * b.runs)]
        print(f"resnest {arguments[0]}: {statistics.median(seconds):.3f} s", flush=True)


PARTS: dict[str, Callable[[Bench], None]] = {
    "starts": starts, "first": first, "cold": cold, "folder": folder, "memory": memory,
    "alone": alone,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS)[:4])
    both = ["fp32", "bf16"]
    parser.add_argument("--precision", choices=both, nargs="+", default=both)
    a = parser.parse_args()
    images = sorted(p for p in a.folder.rglob("*") if p.is_file())
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(a.checkpoint, images, Path(work), a.runs, a.images, a.precision)
        for part in a.only:
            PARTS[part](bench)


if __name__ == "__main__":
    main()
