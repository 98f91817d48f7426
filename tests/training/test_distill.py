"""Knowledge distillation: students learn the predictions of teachers instead of the labels."""

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from resnest_cli.catalog.labels import Labels
from resnest_cli.catalog.weights import resolve
from resnest_cli.errors import UsageError
from resnest_cli.model.checkpoint import load_checkpoint, load_model, save_checkpoint
from resnest_cli.training.distill import load_teachers, mean_prediction
from resnest_cli.training.summary import TrainingSummary
from tests.training.conftest import CLASSES, SHORT


def test_teachers_give_the_mean_of_their_probabilities(trained):
    """Each gets images of its own size and normalisation, and is asked for these classes only."""
    files = [trained[0] / "last.safetensors", trained[0] / "best.safetensors"]
    first, second = load_teachers(files, list(CLASSES))
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.5)}
    other = replace(second.config.preprocessing, crop=40, resize=40, **half)
    second = second._replace(config=replace(second.config, preprocessing=other))
    classes = ["White", "blue", "red"]
    student = first.config.preprocessing
    pixels = torch.rand(3, 3, 32, 32, generator=torch.manual_seed(0))

    def normalised(own):
        return (pixels - torch.tensor(own.mean).view(3, 1, 1)) / torch.tensor(own.std).view(3, 1, 1)

    enlarged = F.interpolate(normalised(other), (40, 40), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = [
            load_model(weights=file)(images)[:, [3, 0, 2]].softmax(1)
            for file, images in zip(files, (normalised(student), enlarged), strict=True)
        ]
    predict = mean_prediction([first, second], classes, student, "cpu")
    found = predict(normalised(student))
    torch.testing.assert_close(found, sum(expected) / 2, atol=1e-6, rtol=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize("distilled", [True, False])
def test_a_student_that_equals_its_teacher_learns_nothing(trained, data, run, tmp_path, distilled):
    best = trained[0] / "best.safetensors"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{momentum: 0, weight_decay: 0, dropout: 0, epochs: 1, lr: 1}")
    options = ["--weights", best, "--recipe", recipe, "--freeze-backbone", "-j", "0"]
    teacher = ["--teacher", best] if distilled else []
    done = run("train", data, *options, *teacher, "-o", "out")
    assert done.returncode == 0, done.stderr
    before, after = load_file(best), load_file(tmp_path / "out" / "last.safetensors")
    moved = float((before["fc.weight"] - after["fc.weight"]).abs().max())
    assert moved < 1e-6 if distilled else moved > 1e-3


def test_a_run_records_its_teachers(trained, data, run, tmp_path):
    files = trained[0] / "best.safetensors", trained[0] / "last.safetensors"
    command = ["train", data, *SHORT, "--teacher", files[0], "--teacher", files[1]]
    done = run(*command, "--epochs", "1", "-o", "out")
    assert done.returncode == 0, done.stderr
    recipe = TrainingSummary.read(tmp_path / "out").recipe
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert recipe["teacher"] == list(map(str, files))
    assert recipe["teacher_sha256"] == digests
    assert recipe["label_smoothing"] == 0
    config = load_checkpoint(resolve(weights=tmp_path / "out" / "best.safetensors")).config
    assert config.recipe["teacher_sha256"] == digests


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (Labels(("blue", "green", "red", "black")), "lacks the class 'white'"),
        (None, "has no class names"),
    ],
    ids=["unknown class", "no names"],
)
def test_a_teacher_must_know_the_classes(trained, tmp_path, labels, words):
    checkpoint = load_checkpoint(resolve(weights=trained[0] / "best.safetensors"))
    teacher = tmp_path / "teacher.safetensors"
    config = replace(checkpoint.config, labels=labels)
    save_checkpoint(teacher, checkpoint.network(), config)
    with pytest.raises(UsageError, match=words):
        load_teachers([teacher], list(CLASSES))


def test_a_missing_teacher(data, run, tmp_path):
    done = run("train", data, *SHORT, "--teacher", "none.safetensors", "-o", "out")
    assert (done.returncode, "none.safetensors" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_teacher_is_not_overwritten(trained, data, run, tmp_path):
    (tmp_path / "out").mkdir()
    teacher = tmp_path / "out" / "best.safetensors"
    teacher.write_bytes((trained[0] / "best.safetensors").read_bytes())
    done = run("train", data, *SHORT, "--teacher", teacher, "--overwrite", "-o", "out")
    assert (done.returncode, "would be overwritten" in done.stderr) == (2, True), done.stderr
    assert teacher.exists()
