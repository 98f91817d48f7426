"""Configs in checkpoints: what is written is read, and what is absurd is refused."""

import json
from dataclasses import replace

import pytest

from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.labels import Labels, read_labels
from resnest_cli.catalog.variants import VARIANTS, get_variant
from resnest_cli.errors import LabelsError


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_a_config_survives_as_text(variant):
    config = ModelConfig.of_variant(variant)
    assert ModelConfig.from_json(config.to_json()) == config
    own = Labels(("ä", "b\n"), ("n1", "n2"))
    other = replace(
        config, name="mine", num_classes=2, labels=own, recipe={"epochs": 3}, origin="x",
        temperature=1.5,
    )  # fmt: skip
    assert ModelConfig.from_json(other.to_json()) == other


@pytest.mark.parametrize(
    "change",
    [
        {"name": 5},
        {"name": "x" * 201},
        {"origin": "x" * 501},
        {"num_classes": "1000"},
        {"num_classes": -1},
        {"in_channels": -3},
        {"preprocessing": {"crop": 224.5}},
        {"preprocessing": {"std": [1, 1, float("inf")]}},
        {"labels": {"names": ["a"] * 1000, "wnids": ["n1"]}},
        {"labels": {"names": ["a"] * 999, "wnids": None}},
        {"architecture": {"blocks": [1, 1, 1]}},
        {"architecture": {"radix": 10**6}},
        {"architecture": {"width": 0}},
        {"architecture": {"width": "1"}},
        {"recipe": [1]},
        {"temperature": 0},
        {"temperature": "1"},
    ],
    ids=str,
)
def test_absurd_values_are_refused(change):
    values = json.loads(ModelConfig.of_variant(get_variant("resnest14")).to_json())
    for key, value in change.items():
        nested = isinstance(value, dict) and key != "labels"
        values[key] = values[key] | value if nested else value
    with pytest.raises(ValueError, match=r"."):
        ModelConfig.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"a\n\nb\n", "line 2 is blank"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_unusable_files_of_labels(content, reason, tmp_path):
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelsError, match=reason):
        read_labels(path)


def test_labels_are_read(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffa b\r\n ö \r\n\r\n".encode())
    assert read_labels(path) == Labels(("a b", "ö"))
    with pytest.raises(LabelsError, match="has 2 names, but the network has 3 classes"):
        read_labels(path).check(3, "'labels.txt'")
