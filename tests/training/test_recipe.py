"""Recipes: defaults, ranges, files, and how they combine with options."""

import json
import math

import pytest

from resnest_cli import errors
from resnest_cli.errors import ResNeStError, UsageError
from resnest_cli.training.recipe import (
    FINE_TUNING,
    Recipe,
    combine,
    make_recipe,
    read_options,
    read_recipe,
)

WRITTEN = {
    "yaml": "model: resnest26\nscratch: true\nweight_decay: 1e-4\nepochs: 30\nval: held/out\n"
    "teacher: [a.pth, /b.pth]\nseed: null\n",
    "toml": 'model = "resnest26"\nscratch = true\nweight_decay = 1e-4\nepochs = 30\n'
    'val = "held/out"\nteacher = ["a.pth", "/b.pth"]\n',
    "json": '{"model": "resnest26", "scratch": true, "weight_decay": 1e-4, "epochs": 30,'
    ' "val": "held/out", "teacher": ["a.pth", "/b.pth"]}',
}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_files_of_any_kind_say_the_same(tmp_path, suffix):
    file = tmp_path / f"recipe.{suffix}"
    file.write_text(WRITTEN[suffix])
    found = read_recipe(file)
    assert found == {
        "model": "resnest26",
        "scratch": True,
        "val": tmp_path / "held" / "out",  # relative to the file's folder
        "teacher": (tmp_path / "a.pth", tmp_path.joinpath("/b.pth")),
        "weight_decay": 1e-4,
        "epochs": 30,
    }
    assert isinstance(found["weight_decay"], float)  # to YAML 1.1 it is text


def test_a_model_in_a_file_may_be_a_path(tmp_path):
    (tmp_path / "a.yaml").write_text("model: trained/best.safetensors")
    assert read_recipe(tmp_path / "a.yaml") == {"weights": tmp_path / "trained/best.safetensors"}


def test_of_a_summary_the_recipe_is_read(tmp_path):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({"name": "x", "recipe": {"epochs": 3}}))
    assert read_recipe(file) == {"epochs": 3}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "epoch: 3", "unknown key epoch\nknown are augment, batch_size, .*weights"),
        ("a.yaml", "epochs: three", "epochs in .* must be a whole number, not 'three'"),
        ("a.yaml", "epochs: 3.5", "epochs in .* must be a whole number, not 3.5"),
        ("a.yaml", "epochs: true", "epochs in .* must be a whole number, not True"),
        ("a.yaml", "lr: high", "lr in .* must be a number, not 'high'"),
        ("a.yaml", "flip: 1", "flip in .* must be true or false, not 1"),
        ("a.yaml", "model: 50", "model in .* must be text, not 50"),
        ("a.yaml", "val: 5", "val in .* must be a path, not 5"),
        ("a.yaml", "teacher: 5", "teacher in .* must be a list of paths, not 5"),
        ("a.yaml", "- 3", "must hold names and values"),
        ("a.yaml", "{", "is not valid: "),
        ("a.toml", "lr: 3", "is not valid: "),
        ("a.json", "{", "is not valid: "),
        ("a.ini", "", "must be a .yaml, .yml, .toml or .json file"),
        ("none/a.yaml", None, "cannot be read: No such file"),
    ],
)
def test_unusable_files(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        read_recipe(tmp_path / name)


def test_a_missing_yaml_reader_is_named_with_the_pip_command(tmp_path, monkeypatch):
    (tmp_path / "a.yml").write_text("epochs: 3")
    monkeypatch.setattr(errors, "find_spec", lambda _: None)
    with pytest.raises(ResNeStError, match=r"yaml is not installed\npip install 'resnest-cli\[tr"):
        read_recipe(tmp_path / "a.yml")


def test_options_take_precedence_over_a_recipe(tmp_path):
    base = {"model": "resnest26", "crop": 64, "weights_sha256": "0", "teacher_sha256": ("0",)}
    assert combine({"crop": 96, "scratch": False}, base) == base | {"crop": 96, "scratch": False}
    # digests are of the files that the recipe names
    assert combine({"weights": tmp_path}, base).keys() == {"weights", "crop", "teacher_sha256"}
    assert "teacher_sha256" not in combine({"teacher": (tmp_path,)}, base)


def test_a_recipe_survives_being_stored(tmp_path):
    recipe = make_recipe(
        {"weights": tmp_path / "w.pth", "teacher": (tmp_path / "t.pth",), "teacher_sha256": ("0",)}
    )
    stored = json.loads(json.dumps(recipe.as_dict()))
    assert make_recipe(read_options(stored, "the file")) == recipe


def test_names_of_models(monkeypatch):
    assert read_options({"model": "resnest50d"}, "") == {"model": "resnest50"}
    assert make_recipe({}).model == "resnest50"
    monkeypatch.setenv("RESNEST_MODEL", "resnest26d")
    assert make_recipe({}).model == "resnest26"


def test_defaults_differ_between_fine_tuning_and_training_from_scratch():
    assert make_recipe({"scratch": True, "model": "resnest14"}) == Recipe("resnest14", scratch=True)
    assert make_recipe({}) == Recipe("resnest50", **FINE_TUNING)
    distilled = make_recipe({"scratch": True, "teacher": ("x",)})
    assert distilled.label_smoothing == 0
    assert make_recipe({"teacher": ("x",), "label_smoothing": 0.2}).label_smoothing == 0.2


def test_short_runs_warm_up_for_at_most_a_fifth():
    assert make_recipe({"epochs": 2, "scratch": True}).warmup_epochs == 0.4
    assert make_recipe({"epochs": 2, "warmup_epochs": 1.0}).warmup_epochs == 1


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(epochs=10, batch_size=128, lr=0.4, warmup_epochs=2)
    assert recipe.learning_rate(0) == pytest.approx(0.002)
    assert recipe.learning_rate(1) == pytest.approx(0.1)
    assert recipe.learning_rate(2) == pytest.approx(0.2)
    assert recipe.learning_rate(6) == pytest.approx(0.2 * (1 + math.cos(math.pi / 2)) / 2)
    assert recipe.learning_rate(10) == pytest.approx(0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "`epochs` must be 1 to 100000, not 0"),
        ({"momentum": 1.0}, r"momentum \(in `recipe`\) must be 0 to 0.9999, not 1.0"),
        ({"warmup_epochs": 200.0}, "warmup_epochs .* must be 0 to 100, not 200"),
        ({"min_scale": 2.0}, "min_scale .* must be 0.001 to 1, not 2"),
        ({"lr": math.nan}, "`lr` must be 0 to 1000, not nan"),
        ({"augment": "heavy"}, "`augment` must be none, light, .*, not 'heavy'"),
        ({"store": "int8"}, "`store` must be fp32, fp16, not 'int8'"),
    ],
    ids=str,
)
def test_values_out_of_range(values, words):
    with pytest.raises(UsageError, match=words):
        Recipe(**values)
