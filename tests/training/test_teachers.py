"""Networks in training learn the answers of others in place of the labels."""

import hashlib
import json
import signal
import subprocess
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from resnest_cli.errors import UsageError
from resnest_cli.labels import Labels
from resnest_cli.model.load import load_model, load_state, save_checkpoint
from resnest_cli.training.teachers import Teachers, read_teachers
from tests.conftest import RESNEST
from tests.training.conftest import CLASSES, SHORT


def test_they_give_the_mean_of_their_probabilities(trained):
    """Each sees pictures of its own size and normalisation, and is asked for these classes only."""
    files = [trained[0] / "last.safetensors", trained[0] / "best.safetensors"]
    first, second = read_teachers(files, list(CLASSES))
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.5)}
    other = replace(second.card.preprocessing, crop=40, resize=40, **half)
    second = second._replace(card=replace(second.card, preprocessing=other))
    classes = ["White", "blue", "red"]
    shown = first.card.preprocessing
    pixels = torch.rand(3, 3, shown.crop, shown.crop, generator=torch.manual_seed(0))

    def normalised(own):
        return (pixels - torch.tensor(own.mean).view(3, 1, 1)) / torch.tensor(own.std).view(3, 1, 1)

    enlarged = F.interpolate(normalised(other), (40, 40), mode="bilinear", antialias=True)
    with torch.no_grad():
        answers = [
            load_model(weights=file)(seen)[:, [3, 0, 2]].softmax(1)
            for file, seen in zip(files, (normalised(shown), enlarged), strict=True)
        ]
    asked = Teachers([first, second], classes, shown, "cpu")(normalised(shown))
    torch.testing.assert_close(asked, sum(answers) / 2, atol=1e-6, rtol=1e-5)
    assert not asked.requires_grad


@pytest.mark.parametrize("taught", [True, False])
def test_whoever_answers_as_its_teacher_has_nothing_to_learn(trained, data, run, tmp_path, taught):
    best = trained[0] / "best.safetensors"
    options = "--freeze --epochs 1 --lr 1 --momentum 0 --weight-decay 0 --dropout 0".split()
    teacher = ["--teacher", best] if taught else []
    done = run("train", data, "--weights", best, *options, *teacher, "-o", "out")
    assert done.returncode == 0, done.stderr
    before, after = load_file(best), load_file(tmp_path / "out" / "last.safetensors")
    moved = float((before["fc.weight"] - after["fc.weight"]).abs().max())
    assert moved < 1e-6 if taught else moved > 1e-3


def test_a_taught_run_says_by_whom_and_is_gone_on_with(trained, data, run, tmp_path):
    best, last = trained[0] / "best.safetensors", trained[0] / "last.safetensors"
    command = ["train", data, *SHORT, "--teacher", best, "--teacher", last]
    done = run(*command, "-o", "whole")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["teachers"] == [str(best), str(last)]
    assert summary["recipe"]["label_smoothing"] == 0
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (best, last)]
    card = load_state(weights=tmp_path / "whole" / "best.safetensors").card
    assert card.recipe["teachers"] == digests
    with subprocess.Popen(
        [*RESNEST, *command, "-o", "out"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if "epoch 1/2" in line:
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=60)
    wrong = run("train", data, "--teacher", last, "--resume", "-o", "out")
    assert (wrong.returncode, "was begun with teachers" in wrong.stderr) == (1, True), wrong.stderr
    done = run("train", data, "--resume", "-o", "out")
    assert (done.returncode, "going on" in done.stderr) == (0, True), done.stderr
    kept, expected = (tmp_path / f / "last.safetensors" for f in ("out", "whole"))
    assert kept.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (Labels(("blue", "green", "red", "black")), "doesn't know 'white'"),
        (None, "has no class names"),
    ],
    ids=["unknown class", "no names"],
)
def test_a_teacher_must_know_the_classes(trained, tmp_path, labels, words):
    best, teacher = trained[0] / "best.safetensors", tmp_path / "teacher.safetensors"
    card = replace(load_state(weights=best).card, labels=labels)
    save_checkpoint(teacher, load_model(weights=best), card)
    with pytest.raises(UsageError, match=words):
        read_teachers([teacher], list(CLASSES))


def test_a_teacher_that_is_not_there(data, run, tmp_path):
    done = run("train", data, *SHORT, "--teacher", "none.safetensors", "-o", "out")
    assert (done.returncode, "none.safetensors" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_teacher_is_not_written_over(trained, data, run, tmp_path):
    (tmp_path / "out").mkdir()
    teacher = tmp_path / "out" / "best.safetensors"
    teacher.write_bytes((trained[0] / "best.safetensors").read_bytes())
    done = run("train", data, *SHORT, "--teacher", teacher, "--overwrite", "-o", "out")
    assert (done.returncode, "would be replaced" in done.stderr) == (2, True), done.stderr
    assert teacher.exists()
