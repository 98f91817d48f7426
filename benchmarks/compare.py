"""Whole processes, in turn, against timm's documented snippet with the same weights.

    python benchmarks/compare.py CHECKPOINT FOLDER [--runs 5]

CHECKPOINT is a resnest50 state dict; FOLDER holds pictures. Printed are medians of seconds and of
the ratios pair by pair. timm must be installed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

SNIPPET = """
import sys, timm, torch
from pathlib import Path
from PIL import Image
model = timm.create_model("resnest50d", checkpoint_path=sys.argv[1]).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
for path in map(Path, sys.argv[2:]):
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with torch.no_grad():
            out = model(transform(Image.open(file).convert("RGB")).unsqueeze(0))
        probabilities, indices = torch.topk(out.softmax(1)[0], 5)
        print(file, indices.tolist(), probabilities.tolist())
"""
LIST = "import timm; timm.list_models('*resnest*')"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def compare(title: str, ours: list[str], theirs: list[str], runs: int, pictures: int = 1) -> None:
    """Print medians of one pair of commands; the first round is not counted."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(runs + 1)][1:]
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    rates = f", {pictures / mine:.1f} and {pictures / other:.1f} pictures/s" if pictures > 1 else ""
    print(f"{title}: {mine:.2f} s, timm {other:.2f} s, ratio {ratio:.2f}{rates}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    python, resnest = sys.executable, [sys.executable, "-m", "resnest_cli"]
    pictures = sorted(p for p in arguments.folder.iterdir() if p.is_file())
    predict = [*resnest, "predict", "-m", "resnest50", "--weights", arguments.checkpoint]
    predict += ["--engine", "torch", "-f", "csv"]
    snippet = [python, "-W", "ignore", "-c", SNIPPET, arguments.checkpoint]
    compare("list-models", [*resnest, "list-models"], [python, "-c", LIST], arguments.runs)
    one = str(pictures[0])
    compare("one picture", [*predict, one], [*snippet, one], arguments.runs)
    folder = str(arguments.folder)
    compare("folder", [*predict, folder], [*snippet, folder], arguments.runs, len(pictures))


if __name__ == "__main__":
    main()
