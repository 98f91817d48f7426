"""The bundled network is as good as its page says."""

import csv
import json
import tarfile

import pytest

from resnest_cli import Classifier, __version__
from resnest_cli.bundled import demo_checkpoint
from tests.conftest import DATA, ROOT

DEMO = ROOT / "docs" / "demo"


def test_it_is_small_and_says_what_it_is():
    assert demo_checkpoint().stat().st_size <= 6_000_000
    card = Classifier("demo").card
    assert (card.name, card.num_classes) == ("demo", 10)
    assert card.labels.names[:3] == ("airplane", "automobile", "bird")
    assert card.recipe == json.loads((DEMO / "12-summary.json").read_text())["recipe"]
    assert card.origin.startswith("best.safetensors, SHA-256 ")  # no longer a blend
    view = card.preprocessing
    assert (view.crop, view.resize, view.squash) == (96, 98, True)
    assert card.tool_version <= __version__


def test_its_page_says_what_its_record_says():
    page = (ROOT / "docs" / "demo.md").read_text()
    for number in (9, 10, 11, 12):
        summary = json.loads((DEMO / f"{number}-summary.json").read_text())
        check_told(page, summary)


def check_told(page, summary):
    assert f"{summary['best']['val_top1']:.2f} %" in page
    for name, value in summary["recipe"].items():
        option = f"--{name.replace('_', '-')} {value:g}" if isinstance(value, float) else None
        if option and name in ("lr", "weight_decay", "min_scale", "max_scale", "ema"):
            assert option in page, option


def test_photographs():
    folder = DATA / "photos" / "imagenet_sample"
    if not folder.is_dir():
        pytest.skip("the photographs are not there; $RESNEST_TEST_DATA names their folder")
    truths = dict(csv.reader((DEMO / "photographs.csv").read_text().splitlines()[1:]))
    results = list(Classifier("demo").stream(folder / name for name in truths))
    right = [r.top1.label == truth for r, truth in zip(results, truths.values(), strict=True)]
    assert sum(right) / len(right) >= 0.65  # docs/demo.md says how far that is


def test_pictures_of_the_kind_it_learned():
    path = DATA / "cifar10" / "test.tar.xz"
    if not path.is_file():
        pytest.skip("CIFAR-10's test set is not there; $RESNEST_TEST_DATA names its folder")
    pictures, truths = [], []
    with tarfile.open(path) as archive:
        for number, member in enumerate(m for m in archive if m.isfile()):
            if number % 5 == 0:  # a thousand
                pictures.append(archive.extractfile(member).read())
                truths.append(member.name.split("/")[-2])
    results = Classifier("demo").stream(pictures)
    right = [r.top1.label == truth for r, truth in zip(results, truths, strict=True)]
    assert len(right) == 1000
    assert sum(right) / len(right) >= 0.9  # of all 5,000 docs/demo.md says more
