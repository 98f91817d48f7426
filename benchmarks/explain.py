"""Whether maps add up, lie where the object is, mark what matters, and depend on what was learned.

    python benchmarks/explain.py completeness [--own-crop] [--variant NAME ...]
    python benchmarks/explain.py figures IMAGES [--count 200]
    python benchmarks/explain.py time IMAGES [--model demo] [--repeats 5]

`completeness`: the greatest |mean of the map + bias - logit| over all classes, for each variant,
with made weights, and each engine that is installed; and the greatest logit. Crops have 96 pixels,
or the variants' own.

`figures`: for the bundled network and IMAGES, a folder or archive of class folders with its names:

- grid of four: an image of the class in one quarter, images of three other classes in the rest.
  The positive evidence's share in the right quarter, and how often the largest value is there.
  Chance: 25 %.
- deletion: the marked fifth of the cells is hidden, and 20 random fifths: `explain --check`. How
  often the marked one harms more than they do in the mean. Chance: 50 %, with the p-value of a sign
  test.
- randomisation (Adebayo et al., arXiv 1810.03292): Spearman's correlation of the maps with those
  after the weights are drawn again, from the last layer down. It should fall towards 0.

`time`: `explain --no-images` against `predict`, in turn, in processes of their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from resnest_cli import Classifier, load_model
from resnest_cli.catalog.variants import VARIANTS, Variant, get_variant
from resnest_cli.engines.api import LOGITS, MAPS
from resnest_cli.errors import ImageError
from resnest_cli.explain.check import DRAWS, check
from resnest_cli.explain.maps import Explained, LastLayer, explain_class
from resnest_cli.imaging.decode_options import DEFAULT
from resnest_cli.inputs.discover import Inputs
from resnest_cli.model.resnest import ResNeSt, initialise

ENGINES = ["torch", *(["openvino"] if find_spec("openvino") else [])]


def soft_images(count: int) -> list[Image.Image]:
    """Random images of soft colours."""
    rng = np.random.default_rng(0)
    coarse = (rng.integers(0, 256, (9, 12, 3), np.uint8) for _ in range(count))
    return [Image.fromarray(c).resize((400, 300), Image.Resampling.BICUBIC) for c in coarse]


def made(variant: Variant, path: Path, crop: int) -> None:
    """Write random weights whose signals keep their size, and logits of a few units."""
    torch.manual_seed(0)
    network = load_model(variant.name, pretrained=False)
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.weight.data.fill_(0.3 if name.endswith("bn3") else 1)  # else deep ones explode
    view = variant.preprocessing.sized(crop, None)
    x = torch.from_numpy(np.stack([view(image) for image in soft_images(4)]))
    with torch.no_grad():
        network.train()(x)
        for name, module in network.named_modules():
            if name.endswith("conv2.bn1"):  # pooled, so almost alike; scaled up, they are chaos
                module.running_var.fill_(0.25)
        logits = network.eval()(x)
        network.fc.weight.mul_(3 / logits.std())
        network.fc.bias.normal_()
    torch.save(network.state_dict(), path)


def worst(classifier: Classifier, images: list[Image.Image]) -> tuple[float, float]:
    """The greatest gap between a class's logit and its map's mean and bias; the greatest logit."""
    layer = LastLayer.of(classifier.engine.weights, classifier.config.num_classes)
    gaps, largest = [0.0], 0.0
    for _, (logits, maps) in classifier.outputs(images, (LOGITS, MAPS)):  # type: ignore[misc]
        largest = max(largest, float(np.abs(logits).max()))
        for index in range(len(logits)):
            e = explain_class(maps, logits, layer, index)
            gaps.append(abs(e.evidence + e.bias - e.logit))
    return max(gaps), largest


def completeness(names: list[str], *, own_crop: bool) -> float:
    """Print the worst gap of each variant and engine, and return the worst of all."""
    gaps, images = {}, soft_images(6)[-2:]  # two that the weights were not made with
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESNEST_HOME"] = folder
        for variant in map(get_variant, names):
            path = Path(folder) / "weights.pth"
            crop = variant.preprocessing.crop if own_crop else 96
            made(variant, path, crop)
            for engine in ENGINES:
                classifier = Classifier(
                    variant.name, weights=path, engine=engine, crop=crop, batch_size=1
                )
                gap, logit = worst(classifier, images)
                gaps[variant.name, engine] = gap
                print(
                    f"{variant.name:24} {engine:9} crop {crop:3} {gap:.1e} (logits to {logit:.0f})",
                    flush=True,
                )
    print(f"worst of {len(gaps)}: {max(gaps.values()):.1e} (at most 1e-4)")
    return max(gaps.values())


Known = dict[int, list[Image.Image]]  # images by class


def known_images(classifier: Classifier, named: str, count: int) -> Known:
    """Images whose class the network finds, from folders with the classes' names."""
    names, chosen = classifier.labels.names, []
    each: dict[str, int] = dict.fromkeys(names, 0)
    for source in Inputs((named,)).sources():
        label = Path(source.name).parent.name
        if each.get(label, count) * len(names) < count * 2:
            each[label] += 1
            chosen.append((names.index(label), source.load(DEFAULT)))
    found: Known = {}
    answers = classifier.stream([image for _, image in chosen])
    for (index, image), result in zip(chosen, answers, strict=True):
        if result.predictions and result.predictions[0].index == index:
            found.setdefault(index, []).append(image)
    return found


def collage(images: list[Image.Image], side: int) -> Image.Image:
    """Four images, each in a quarter."""
    whole = Image.new("RGB", (2 * side, 2 * side))
    for number, image in enumerate(images):
        whole.paste(image.resize((side, side)), (number % 2 * side, number // 2 * side))
    return whole


def explained(classifier: Classifier, image: Image.Image, index: int) -> Explained:
    """The map of a class in one image."""
    layer = LastLayer.of(classifier.engine.weights, classifier.config.num_classes)
    ((_, outputs),) = classifier.outputs([image], (LOGITS, MAPS))
    assert not isinstance(outputs, ImageError)
    return explain_class(outputs[1], outputs[0], layer, index)


def quarter(values: np.ndarray[Any, Any], place: int) -> tuple[float, bool]:
    """The share of the positive evidence in a quarter, and whether the largest value is there."""
    rows, columns = (side // 2 for side in values.shape)
    part = values[place // 2 * rows :, place % 2 * columns :][:rows, :columns]
    positive = np.maximum(values, 0).sum()
    share = float(np.maximum(part, 0).sum() / positive) if positive else 0.25
    return share, bool(part.max() == values.max())


def grid(known: Known, count: int) -> list[tuple[float, bool]]:
    """What `quarter` finds in each collage."""
    side = 96
    classifier = Classifier("demo", engine="torch", preprocess="squash", crop=2 * side)
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        classes = rng.choice(list(known), 4, replace=False)
        images = [known[c][rng.integers(len(known[c]))] for c in classes]
        whole, place = collage(images, side), number % 4
        e = explained(classifier, whole, int(classes[place]))
        found.append(quarter(e.values, place))
    return found


def deletion(classifier: Classifier, known: Known, count: int) -> tuple[int, int, float]:
    """How often the marked fifth harms more than the median random one; of; its p-value."""
    wins = total = 0
    for index, images in known.items():
        for image in images[: -(-count // len(known))]:
            e = explained(classifier, image, index)
            found = check(classifier.engine, classifier.preprocessing.pixels(image), e)
            wins += found["marked_hidden"] < found["random_hidden_mean"]
            total += 1
    tail = sum(comb(total, k) for k in range(wins, total + 1)) / 2**total
    return wins, total, tail


def spearman(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The correlation of ranks."""
    ranks = [np.argsort(np.argsort(v, axis=None)).astype(float) for v in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def randomisation(known: Known, count: int, draws: int = 3) -> dict[str, float]:
    """Mean correlation with the trained maps, once each part and those above it are drawn again."""
    classifier = Classifier("demo", engine="torch", crop=192)
    chosen = [(c, i) for c, images in known.items() for i in images[: -(-count // len(known))]]
    x = torch.from_numpy(np.stack([classifier.preprocessing(i) for _, i in chosen]))
    trained = _maps(load_model("demo"), x, chosen)
    parts = ("fc", "layer4", "layer3", "layer2", "layer1")
    found: dict[str, list[float]] = {}
    for seed in range(draws):
        network = load_model("demo")
        fresh = ResNeSt(network.architecture, num_classes=network.num_classes)
        initialise(fresh, generator=torch.Generator().manual_seed(seed))
        for part in parts:
            network.get_submodule(part).load_state_dict(fresh.get_submodule(part).state_dict())
            pairs = zip(trained, _maps(network, x, chosen), strict=True)
            found.setdefault(part, []).extend(spearman(a, b) for a, b in pairs)
    return {part: statistics.fmean(values) for part, values in found.items()}


@torch.no_grad()
def _maps(network: ResNeSt, x: torch.Tensor, chosen: list[tuple[int, Any]]) -> list[Any]:
    maps = network.eval().forward_features(x)
    rows = network.fc.weight[[index for index, _ in chosen]]
    return list(torch.einsum("nc,nchw->nhw", rows, maps).numpy())


def figures(named: str, count: int) -> None:
    """Print what the bundled network's maps come to."""
    for crop in (96, 192):
        classifier = Classifier("demo", engine="torch", crop=crop)
        known = known_images(classifier, named, count)
        wins, total, tail = deletion(classifier, known, count)
        print(
            f"deletion, crop {crop}: the marked fifth harms more than {DRAWS} random ones' mean on "
            f"{wins} of {total} images (p {tail:.1g})", flush=True,
        )  # fmt: skip
    known = known_images(Classifier("demo", engine="torch"), named, count)
    found = grid(known, count)
    print(
        f"grid of four: {statistics.fmean(share for share, _ in found):.1%} of the positive "
        f"evidence in the right quarter, over half on {sum(s > 0.5 for s, _ in found)} of "
        f"{len(found)}, the largest value on {sum(hit for _, hit in found)}", flush=True,
    )  # fmt: skip
    for part, value in randomisation(known, min(count, 30)).items():
        print(f"randomisation, down to {part}: correlation {value:+.3f}")


def timed(named: str, model: str, repeats: int) -> None:
    """Print the ratio of the medians of `explain` and `predict`."""
    seconds: dict[str, list[float]] = {"predict": [], "explain": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, repeats):
            for command, more in (
                ("predict", ["-o", f"{folder}/{number}.jsonl"]),
                ("explain", ["-o", f"{folder}/{number}", "--no-images"]),
            ):
                start = time.perf_counter()
                words = [sys.executable, "-m", "resnest_cli", command, named, "-m", model, "-q"]
                subprocess.run([*words, *more], check=True)
                if number >= 0:  # the first ones prepare the network
                    seconds[command].append(time.perf_counter() - start)
    medians = {command: statistics.median(all_) for command, all_ in seconds.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(" ".join(f"{command} {median:.2f} s" for command, median in medians.items()))
    print(f"ratio of the medians {medians['explain'] / medians['predict']:.3f}, each", end=" ")
    print(" ".join(f"{ratio:.3f}" for ratio in ratios))


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("completeness")
    one.add_argument("--own-crop", action="store_true")
    one.add_argument("--variant", nargs="+", default=[v.name for v in VARIANTS])
    for command in ("figures", "time"):
        one = commands.add_parser(command)
        one.add_argument("images")
        one.add_argument("--count", type=int, default=200)
        one.add_argument("--model", default="demo")
        one.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.command == "completeness":
        return int(completeness(given.variant, own_crop=given.own_crop) > 1e-4)
    if given.command == "figures":
        figures(given.images, given.count)
    else:
        timed(given.images, given.model, given.repeats)
    return 0


_Formatter = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    sys.exit(main())
