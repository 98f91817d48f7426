"""The options of a run that is resumed, against those that are given."""

import pytest

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.training.recipe import make_recipe
from resnest_cli.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path, resume=True)
    made.save(make_recipe({"model": "resnest50", "epochs": 20, "batch_size": 64}))
    return made


@pytest.mark.parametrize("given", [{}, {"epochs": 20, "batch_size": 64}, {"lr": 0.04}], ids=str)
def test_options_given_again_are_no_difference(folder, given):
    resumed = make_recipe(folder.resumed_options(given))
    assert resumed == make_recipe({"model": "resnest50", "batch_size": 64})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 30}, "`epochs` 20, not 30"),
        ({"flip": False}, r"flip \(in `recipe`\)"),
        ({"class_weights": True}, "no `class_weights`"),
        ({"scratch": True}, "no `scratch`"),
        ({"crop": 64}, "`crop` at its default, not 64"),
    ],
    ids=str,
)
def test_other_options_are_refused(folder, given, words):
    with pytest.raises(UsageError, match=f"was started with {words}\n"):
        folder.resumed_options(given)


def test_leaving_out_the_check_is_no_difference(folder):
    assert folder.resumed_options({"check": False})["check"] is False


def test_weights_may_move_but_not_change(tmp_path):
    folder, first = RunFolder(tmp_path / "out"), tmp_path / "first.safetensors"
    folder.path.mkdir()
    first.write_bytes(b"weights")
    folder.save(make_recipe({"weights": tmp_path / "gone", "weights_sha256": "of others"}))
    with pytest.raises(UsageError, match="other weights than"):
        folder.resumed_options({"weights": first})
    own = folder.path / "best.safetensors"  # which the run itself overwrites
    own.write_bytes(b"better weights")
    assert folder.resumed_options({"weights": own})["weights"] == own


@pytest.mark.parametrize("text", ["{}}", '{"max_scale": 2}'])
def test_a_damaged_file_of_options(folder, text):
    (folder.path / "run.json").write_text(text)
    with pytest.raises(OutputError, match="is damaged, or from another version"):
        folder.resumed_options({})
