"""How far the engines' answers are from plain eager PyTorch, on real images.

    python benchmarks/agreement.py FOLDER CHECKPOINT... [--made VARIANT ...] [--exact]

For each checkpoint and engine: the greatest difference of a probability, and on how many images
the best five, and the best one, are the same. fp32 should agree within 1e-5; bf16 rounds. With
--exact the same network in float64 says how far each, eager PyTorch included, is from the truth.

`--made` makes weights where no published ones are at hand: random ones, batch norms with the
statistics of the images, and a last layer that has learned the images themselves, each a class
of its own (ridge regression). So signals keep their size and answers are decided, as in a trained
network; how a published one rounds they don't tell.
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

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.variants import get_variant
from resnest_cli.catalog.weights import resolve
from resnest_cli.engines.api import RuntimeOptions
from resnest_cli.engines.select import open_engine
from resnest_cli.errors import EngineError
from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.model.checkpoint import load_checkpoint, load_model

BATCH = 8
_MARGIN = 10.0  # of the logit that is right to the mean of the others, in made weights
_RIDGE = 1.0  # to the mean square of the features


def batches(pixels: NDArray[np.uint8], view: Preprocessing) -> list[torch.Tensor]:
    """What plain PyTorch takes: normalised, (N, 3, crop, crop)."""
    parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
    ready = [view.normalise(part).transpose(0, 3, 1, 2) for part in parts]
    return [torch.from_numpy(np.ascontiguousarray(part)) for part in ready]


def make(variant: str, images: list[Path], checkpoint: Path) -> None:
    """Write weights that know the images."""
    torch.manual_seed(0)
    network = load_model(variant, pretrained=False)
    view = ModelConfig.of_variant(get_variant(variant)).preprocessing
    pixels = np.stack([view.pixels(Image.open(path).convert("RGB")) for path in images])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over the batches
    with torch.no_grad():
        network.train()
        for batch in batches(pixels, view):
            network(batch)
        network.eval()
        parts = [network.pooled_features(batch) for batch in batches(pixels, view)]
        features = torch.cat(parts).double()
        mean = features.mean(0)
        centred = features - mean
        products = centred @ centred.T
        products.diagonal().add_(_RIDGE * products.diagonal().mean())
        weight = torch.linalg.solve(products, centred)
        logits = centred @ weight.T
        weight *= _MARGIN / (logits.diagonal() - logits.mean(1)).median()
        network.fc.weight.zero_()[: len(weight)] = weight
        network.fc.bias.zero_()[: len(weight)] = -weight @ mean
    torch.save(network.state_dict(), checkpoint)


def eager(
    checkpoint: Path, pixels: NDArray[np.uint8], dtype: torch.dtype = torch.float32
) -> NDArray[np.floating]:
    """Probabilities of the unconverted network, computed in this type."""
    loaded = load_checkpoint(resolve(weights=checkpoint))
    network = loaded.network().to(dtype)
    ready = batches(pixels, loaded.config.preprocessing)
    with torch.inference_mode():
        return probabilities(np.concatenate([network(batch.to(dtype)).numpy() for batch in ready]))


def probabilities(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Softmax over the classes."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--made", metavar="VARIANT", nargs="+", default=[])
    parser.add_argument("--exact", action="store_true")
    a = parser.parse_args()
    images = sorted(p for p in a.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    with tempfile.TemporaryDirectory() as home:
        os.environ["RESNEST_HOME"] = home
        made = {Path(home) / f"{variant}.pth": variant for variant in a.made}
        for checkpoint in [*a.checkpoints, *made]:
            if checkpoint in made:
                make(made[checkpoint], images, checkpoint)
            weights = resolve(weights=checkpoint)
            view = load_checkpoint(weights).config.preprocessing
            pixels = np.stack([view.pixels(Image.open(path).convert("RGB")) for path in images])
            expected = eager(checkpoint, pixels)
            exact = eager(checkpoint, pixels, torch.float64) if a.exact else None
            if exact is not None:
                off = np.abs(expected - exact).max()
                print(f"{checkpoint.stem:<28} eager     fp32  {off:.1e} from float64", flush=True)
            for engine, precision in (
                ("torch", "fp32"),
                ("openvino", "fp32"),
                ("torch", "bf16"),
                ("openvino", "bf16"),
            ):
                runtime = RuntimeOptions(
                    device="cpu", engine=engine, precision=precision, use_cache=False
                )
                try:
                    run = open_engine(weights, runtime).run
                except EngineError as error:
                    print(f"{checkpoint.stem} {engine} {precision}: {error}", flush=True)
                    continue
                parts = [run(pixels[i : i + BATCH])[0] for i in range(0, len(pixels), BATCH)]
                found = probabilities(np.concatenate(parts))
                best, theirs = (np.argsort(-p, kind="stable")[:, :5] for p in (found, expected))
                off = "" if exact is None else f" ({np.abs(found - exact).max():.1e} from float64)"
                print(
                    f"{checkpoint.stem:<28} {engine:<9} {precision}  probabilities within "
                    f"{np.abs(found - expected).max():.1e}{off}  same top-5 "
                    f"{(best == theirs).all(1).sum()} of {len(images)}, same top-1 "
                    f"{(best[:, 0] == theirs[:, 0]).sum()}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
