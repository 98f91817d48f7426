"""How far the engines' answers are from plain eager PyTorch, on real pictures.

    python benchmarks/agreement.py FOLDER CHECKPOINT...

For each checkpoint and engine: the greatest difference of a probability, and on how many pictures
the best five, and the best one, are the same. fp32 should agree within 1e-5; bf16 rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnest_cli.classifier import softmax
from resnest_cli.engines.base import EngineOptions, open_engine
from resnest_cli.errors import EngineError
from resnest_cli.model.load import build, load_state

BATCH = 8


def eager(checkpoint: Path, pictures: list[Path]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The pictures' pixels, and probabilities of the network as it is built."""
    loaded = load_state(weights=checkpoint)
    view, network = loaded.card.preprocessing, build(loaded.state, loaded.card)
    pixels = np.stack([view.pixels(Image.open(path).convert("RGB")) for path in pictures])
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            batch = view.normalise(pixels[start : start + BATCH]).transpose(0, 3, 1, 2)
            rows.append(network(torch.from_numpy(np.ascontiguousarray(batch))).numpy())
    return pixels, softmax(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    a = parser.parse_args()
    pictures = sorted(p for p in a.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    with tempfile.TemporaryDirectory() as home:
        os.environ["RESNEST_HOME"] = home
        for checkpoint in a.checkpoints:
            pixels, expected = eager(checkpoint, pictures)
            for engine, precision in (
                ("torch", "fp32"), ("openvino", "fp32"), ("torch", "bf16"), ("openvino", "bf16")
            ):  # fmt: skip
                options = EngineOptions(
                    weights=checkpoint, engine=engine, device="cpu", precision=precision, keep=False
                )
                try:
                    run = open_engine(options).run
                except EngineError as error:
                    print(f"{checkpoint.stem} {engine} {precision}: {error}", flush=True)
                    continue
                parts = [run(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
                found = softmax(np.concatenate(parts))
                best, theirs = (np.argsort(-p, kind="stable")[:, :5] for p in (found, expected))
                print(
                    f"{checkpoint.stem:<28} {engine:<9} {precision}  probabilities within "
                    f"{np.abs(found - expected).max():.1e}  same top-5 "
                    f"{(best == theirs).all(1).sum()} of {len(pictures)}, same top-1 "
                    f"{(best[:, 0] == theirs[:, 0]).sum()}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
