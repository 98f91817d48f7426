"""Near-duplicates found among made-up changes of photographs, beside other methods.

    python benchmarks/duplicates.py PHOTOS [--imagededup FOLDER] [--half tune|report] [-m MODEL]
    python benchmarks/duplicates.py --product 20000

Each photograph is stored with its changes: an exact copy, resized, recompressed, cropped to 90 %,
mirrored, slightly recoloured. True pairs are those of one photograph. For a change of the method,
try it on the photographs at even places (`--half tune`); the others are for figures only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from resnest_cli.embed import duplicates
from resnest_cli.embed.pairs import similar_pairs
from resnest_cli.inference.classifier import Classifier
from resnest_cli.inputs.discover import Inputs


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--imagededup", type=Path, help="a folder that holds the package")
    parser.add_argument("--half", choices=("tune", "report"), default="report")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--product", type=int, metavar="N", help="time all pairs of N vectors")
    parser.add_argument("-m", "--model", default="demo")
    given = parser.parse_args()
    if given.product:
        _product(given.product)
        return
    files = sorted(p for p in given.photos.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg"))
    files = files[given.half == "report" :: 2][: given.limit]
    with tempfile.TemporaryDirectory() as folder:
        _change(files, Path(folder))
        _compare(Path(folder), given)


def _change(files: list[Path], folder: Path) -> None:
    random = np.random.default_rng(0)
    for number, file in enumerate(files):
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        width, height = image.size
        x, y = (int(random.uniform(0, 0.1) * side) for side in image.size)
        made = {
            "original": image,
            "resized": image.resize((int(width * 0.6), int(height * 0.6))),
            "cropped": image.crop((x, y, x + int(width * 0.9), y + int(height * 0.9))),
            "mirrored": ImageOps.mirror(image),
            "recoloured": ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(1.1)).enhance(
                0.85
            ),
        }
        for name, changed in made.items():
            changed.save(folder / f"{number:04}-{name}.png")
        image.save(folder / f"{number:04}-recompressed.jpg", quality=40)
        image.save(folder / f"{number:04}-copy.bmp")


def _compare(folder: Path, given: argparse.Namespace) -> None:
    start = time.perf_counter()
    classifier = Classifier(given.model)
    sources = Inputs((str(folder),)).sources()
    images, _ = duplicates._read(classifier, sources, duplicates.SILENT)
    read = time.perf_counter()
    groups = duplicates.find_groups(images, duplicates.DISTANCE, {})
    end = time.perf_counter()
    names = [Path(image.path).name for image in images]
    photo = {name: name[:4] for name in names}
    true = {frozenset(p) for p in combinations(names, 2) if photo[p[0]] == photo[p[1]]}
    copies = {pair for pair in true if {n[5:] for n in pair} == {"original.png", "copy.bmp"}}
    print(f"{len(names)} images, {len(true)} true pairs; model {given.model}")
    print(f"features {read - start:.1f} s, pairs and pixels {end - read:.1f} s")
    grouped = [[Path(twin.image.path).name for twin in group] for group in groups]
    _line("resnest duplicates", {frozenset(p) for g in grouped for p in combinations(g, 2)}, true)
    exact: dict[str, list[str]] = {}
    for image in images:
        exact.setdefault(image.content, []).append(Path(image.path).name)
    same = {frozenset(p) for group in exact.values() for p in combinations(group, 2)}
    _line("resnest, exact copies", same, copies)
    vectors = np.stack([image.vector for image in images])
    for least in (0.8, 0.9, 0.95):
        pairs, _ = similar_pairs(vectors, least, len(names))
        found = {frozenset((names[i], names[j])) for i, j in pairs}
        _line(f"plain cosine >= {least}", found, true)
    if given.imagededup:
        _imagededup(folder, given.imagededup, true)


def _imagededup(folder: Path, package: Path, true: set[frozenset[str]]) -> None:
    sys.path.append(str(package))
    try:
        import pywt  # noqa: F401
    except ImportError:  # only its wavelet hash needs it
        sys.modules["pywt"] = types.ModuleType("pywt")
    from imagededup import methods

    for name in ("PHash", "DHash", "AHash"):
        found = getattr(methods, name)(verbose=False).find_duplicates(
            image_dir=str(folder), num_enc_workers=0, num_dist_workers=0
        )
        pairs = {frozenset((a, b)) for a, others in found.items() for b in others}
        _line(f"imagededup {name}, its default", pairs, true)
    try:
        found = methods.CNN(verbose=False).find_duplicates(image_dir=str(folder))
    except OSError as error:  # its weights cannot be downloaded
        print(f"imagededup CNN: not run: {type(error).__name__}: {str(error)[:120]}")
        return
    pairs = {frozenset((a, b)) for a, others in found.items() for b in others}
    _line("imagededup CNN, its default", pairs, true)


def _line(name: str, found: set[frozenset[str]], true: set[frozenset[str]]) -> None:
    right = len(found & true)
    precision = right / len(found) if found else float("nan")
    print(f"{name:32} precision {precision:.4f}  recall {right / len(true):.4f}", flush=True)


def _product(count: int) -> None:
    """Time all pairs, and the blocks of the product alone, in turns."""
    vectors = np.random.default_rng(0).normal(size=(count, 2048)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    block, times = 2048, ([], [])
    for _ in range(3):
        start = time.perf_counter()
        for i in range(0, count, block):
            for j in range(i, count, block):
                vectors[i : i + block] @ vectors[j : j + block].T
        middle = time.perf_counter()
        similar_pairs(vectors, duplicates._COSINE, duplicates._PARTNERS)
        times[0].append(middle - start)
        times[1].append(time.perf_counter() - middle)
    alone, pairs = map(min, times)
    print(f"{count:,} vectors: product {alone:.2f} s, pairs {pairs:.2f} s, {pairs / alone:.2f}")


if __name__ == "__main__":
    main()
