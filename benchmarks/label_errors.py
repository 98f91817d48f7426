"""How many labels that were spoiled on purpose an audit finds, and how high they stand.

    python benchmarks/label_errors.py FOLDER [--model demo] [--rate 0.05] [--seeds 0 1 2]

FOLDER holds class folders with right labels, of images that the network was not trained on. A share
of the labels is replaced by others, drawn at random; nothing is changed on disk. Printed are the
mean of the seeds, for k as many images as were spoiled:

- P@k/2, P@k: the share of spoiled labels among the first k/2 and k images;
- R@k, R@2k: the share of the spoiled ones that are among the first k and 2k (R@k equals P@k);
- AP: the average precision of the whole order.

Compared are the order of `resnest audit`, and on the same probabilities cleanlab's own: its label
quality scores, and the issues that it finds by default, in its order. For reference: votes of the
10 nearest images, and probabilities of a layer that was trained on the very labels it judges.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from resnest_cli.datasets.class_folders import LabelledImages, read_class_folders
from resnest_cli.embed.audit import FOLDS, SEED, Features, Split, examine, wrong_labels
from resnest_cli.embed.audit_rows import LABEL
from resnest_cli.embed.neighbours import neighbours
from resnest_cli.embed.out_of_sample import probabilities
from resnest_cli.inference.classifier import Classifier
from resnest_cli.progress import SILENT

Order = NDArray[np.int64]  # images, the most suspicious first


def spoiled(images: LabelledImages, rate: float, seed: int) -> LabelledImages:
    """The same images, a share of them with another class."""
    rng = np.random.default_rng(seed)
    targets, classes = np.array(images.targets), len(images.classes)
    chosen = rng.choice(len(targets), round(rate * len(targets)), replace=False)
    targets[chosen] = (targets[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return replace(images, targets=tuple(targets.tolist()))


def by_score(score: NDArray[np.float64]) -> Order:
    """Images by a score that is low where the label is suspicious."""
    return np.argsort(score, kind="stable")


def orders(images: LabelledImages, found: Features) -> tuple[dict[str, Order], dict[str, Order]]:
    """What is compared: orders of all images, and sets of images that are reported."""
    targets, rows = np.array(images.targets), np.arange(len(images))
    marks = [found.marks[path] for path in images.paths]
    number = {path: index for index, path in enumerate(images.paths)}
    findings = examine([Split(None, images)], found)
    ours = np.array([number[finding.path] for finding in findings])
    reported = np.array([number[f.path] for f in findings if LABEL in f.issues])

    given = probabilities(found.vectors, targets, marks, folds=FOLDS, seed=SEED)
    assert set(np.flatnonzero(wrong_labels(targets, given))) == set(reported.tolist())
    by_default = np.flatnonzero(find_label_issues(targets, given, n_jobs=1))
    ranked = {
        method: by_score(get_label_quality_scores(targets, given, method=method))
        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    }
    near, _ = neighbours(found.vectors, rows, 10)
    agree = (targets[near] == targets[:, None]).mean(1)
    mean, spread = found.vectors.mean(0), found.vectors.std(0) + 1e-9
    seen = LogisticRegression(C=1.0, max_iter=30).fit((found.vectors - mean) / spread, targets)
    inside = seen.predict_proba((found.vectors - mean) / spread)[rows, targets]
    return {
        "resnest audit": ours,
        **{f"cleanlab {name}": order for name, order in ranked.items()},
        "votes of 10 neighbours": by_score(agree),
        "in-sample probabilities": by_score(inside),
    }, {"resnest audit": reported, "cleanlab find_label_issues": by_default}


def figures(order: Order, bad: NDArray[np.bool_]) -> list[float]:
    """P@k/2, P@k, R@2k and AP."""
    hits, k = bad[order], int(bad.sum())
    ap = average_precision_score(hits, -np.arange(len(hits)))
    return [hits[: k // 2].mean(), hits[:k].mean(), hits[: 2 * k].sum() / k, ap]


def show(head: str, names: list[str], rows: dict[str, list[list[float]]]) -> None:
    """Print the means of the seeds."""
    print(f"\n{head:32}" + "".join(f"{name:>11}" for name in names))
    for name, values in rows.items():
        print(f"{name:32}" + "".join(f"{mean:11.3f}" for mean in np.mean(values, axis=0)))


def main() -> None:
    """Spoil, audit, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's advice on the in-sample layer
    images = read_class_folders(given.folder)
    classifier = Classifier(given.model)
    found = Features.of(classifier, images.paths, SILENT)
    images = images.select(found.read)
    found = replace(found, read=[*range(len(images))], errors={})
    ranked: dict[str, list[list[float]]] = {}
    reported: dict[str, list[list[float]]] = {}
    add: Callable[[dict[str, list[list[float]]], str, list[float]], None]
    add = lambda rows, name, values: rows.setdefault(name, []).append(values)  # noqa: E731
    for seed in given.seeds:
        wrong = spoiled(images, given.rate, seed)
        bad = np.array(wrong.targets) != np.array(images.targets)
        whole, parts = orders(wrong, found)
        for name, order in whole.items():
            add(ranked, name, figures(order, bad))
        for name, part in parts.items():
            add(reported, name, [len(part), bad[part].mean(), bad[part].sum() / bad.sum()])
    print(f"{len(images):,} images, {bad.sum()} labels spoiled, {len(given.seeds)} seeds")
    print(classifier.describe())
    show("order", ["P@k/2", "P@k = R@k", "R@2k", "AP"], ranked)
    show("reported", ["images", "precision", "recall"], reported)


if __name__ == "__main__":
    main()
