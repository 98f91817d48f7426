"""`resnest embed`: vectors, names, failures, resuming, and what it refuses."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pytest

from resnest_cli import Classifier, Inputs, ModelSpec
from resnest_cli.embed.job import EmbedJob, vectors_of
from resnest_cli.embed.vectors import FORMATS, Vectors, journal_path, names_path
from resnest_cli.engines.api import FEATURES
from resnest_cli.errors import OutputError
from tests.conftest import RESNEST, drawn, peak

KILLS = int(os.environ.get("RESNEST_TEST_KILLS", "1"))  # of each format


@pytest.fixture(params=FORMATS)
def suffix(request):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra parquet)")
    return request.param


@pytest.fixture
def embed(run):
    return lambda *arguments, **options: run("embed", "-m", "demo", *arguments, **options)


def names(path):
    with names_path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def cut(path, rows):
    """Make of a finished output what a kill leaves after some rows, amid the next one."""
    if path.suffix == ".parquet":
        stored = Vectors.read(path)
        numbers = stored.values[: rows + 1].tobytes()
        text = [
            f"{name},{error or ''}\n"
            for name, error in zip(stored.paths, stored.errors, strict=True)
        ]
        names_path(path).write_text("path,error\n" + "".join(text[:rows]) + text[rows][:4])
        path.unlink()
        journal_path(path).write_bytes(numbers)
        return
    after = (len(names(path)) - rows - 1) * Vectors.read(path).values.shape[1] * 4
    content = path.read_bytes()
    path.unlink()
    journal_path(path).write_bytes(content[: len(content) - after - 7])
    lines = names_path(path).read_bytes().splitlines(keepends=True)
    names_path(path).write_bytes(b"".join(lines[: rows + 1]) + lines[rows + 1][:4])


def test_a_row_for_each_input_and_nan_for_failures(embed, many, tmp_path, suffix):
    done = embed(many, "-o", f"v{suffix}")
    assert done.returncode == 3, done.stderr
    assert "30 images in" in done.stderr
    assert "3 failed" in done.stderr
    path = tmp_path / f"v{suffix}"
    found = Vectors.read(path)
    assert found.paths == [str(image) for image in sorted(many.iterdir())]
    assert [i for i, error in enumerate(found.errors) if error] == [4, 14, 24]
    assert found.values.dtype == np.float32
    assert np.array_equal(np.isnan(found.values).all(1), ~found.valid)
    assert np.isfinite(found.values[found.valid]).all()
    classifier = Classifier("demo")
    wanted = [f[0] for _, f in classifier.outputs(found.paths[:4], (FEATURES,))]
    assert np.array_equal(found.values[:4], np.stack(wanted)), "the same to the bit"
    record = json.loads(path.with_name(path.name + ".run.json").read_text())
    assert record["settings"] == found.settings
    assert found.settings["weights_sha256"] == classifier.engine.weights.sha256
    left = {path.name, f"{path.name}.run.json"}
    assert {p.name for p in tmp_path.glob("v*")} == left | (
        {f"{path.name}.names.csv"} if suffix != ".parquet" else set()
    )


def test_other_programs_read_the_files(embed, many, tmp_path):
    from safetensors import safe_open

    for suffix in FORMATS[:2]:
        embed(many, "-o", f"v{suffix}")
    values = np.load(tmp_path / "v.npy")
    assert [bool(row["error"]) for row in names(tmp_path / "v.npy")] == [*np.isnan(values).any(1)]
    with safe_open(tmp_path / "v.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("vectors"), values, equal_nan=True)
        made = json.loads(file.metadata()["resnest"])
    assert made["settings"]["model"] == "demo"
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    embed(many, "-o", "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["path", "error", "vector"]
    assert table["vector"].null_count == 3
    assert table["vector"][0].as_py() == values[0].tolist()


@pytest.mark.parametrize("rows", [1, 8, 29])
def test_a_cut_run_is_resumed_to_the_same_bytes(embed, many, tmp_path, suffix, rows):
    embed(many, "-o", f"whole{suffix}")
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    for old in tmp_path.glob("whole*"):
        shutil.copy(old, tmp_path / old.name.replace("whole", "part"))
    cut(part, rows)
    with pytest.raises(OutputError, match="is unfinished: let embed continue it"):
        Vectors.read(part)
    done = embed(many, "-o", part.name)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    other = embed(many, "-o", part.name, "--resume", "--crop", 64)
    assert other.returncode == 1
    assert "belongs to other settings: preprocessing was" in other.stderr
    done = embed(many, "-o", part.name, "--resume")
    assert done.returncode == 3, done.stderr
    assert "30 with the earlier run's" in done.stderr
    assert part.read_bytes() == whole.read_bytes()
    assert not journal_path(part).exists()


def test_a_finished_file_is_continued_with_further_inputs(embed, many, tmp_path, suffix):
    embed(many, "-o", f"whole{suffix}")
    embed(many, "-o", f"v{suffix}", "--limit", 12)
    assert len(Vectors.read(tmp_path / f"v{suffix}")) == 12
    assert embed(many, "-o", f"v{suffix}", "--resume").returncode == 3
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    assert (tmp_path / f"v{suffix}").read_bytes() == whole
    assert embed(many, "-o", f"v{suffix}", "--resume").returncode == 3, "nothing is left to do"
    assert (tmp_path / f"v{suffix}").read_bytes() == whole
    assert embed(many, "-o", f"v{suffix}", "--overwrite", "--limit", 2).returncode == 0
    assert len(Vectors.read(tmp_path / f"v{suffix}")) == 2


def test_a_killed_run_is_resumed_to_the_same_bytes(many, tmp_path, suffix):
    for number in range(30, 90):
        drawn(400, 300, seed=number).save(many / f"{number:03}.jpg")
    values = os.environ | {"RESNEST_ENGINE": "openvino" if find_spec("openvino") else "torch"}

    def command(out, *more):
        arguments = [many, "-m", "demo", "-q", "-o", out, *more]
        return [*RESNEST, "embed", *map(str, arguments)]

    whole = tmp_path / f"whole{suffix}"
    subprocess.run(command(whole), env=values, check=False)
    start = time.monotonic()
    subprocess.run(command(whole, "--overwrite"), env=values, check=False)
    lasting = time.monotonic() - start
    rng, killed = random.Random(suffix), 0
    while killed < KILLS:
        out = tmp_path / f"cut{killed}{suffix}"
        start = time.monotonic()
        with subprocess.Popen(command(out), env=values) as process:
            try:
                process.wait(rng.uniform(0.3, 1) * lasting)
                lasting = time.monotonic() - start
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
        done = subprocess.run(command(out, "--resume"), env=values, check=False)
        assert done.returncode == 3
        assert out.read_bytes() == whole.read_bytes()
        if suffix != ".parquet":
            assert names_path(out).read_bytes() == names_path(whole).read_bytes()


def test_vectors_of_inputs_for_other_parts(many):
    found = vectors_of(Inputs((str(many),)), ModelSpec("demo"))
    assert len(found) == 30
    assert found.valid.sum() == 27
    again = EmbedJob(str(many), many.parent / "v.npy", ModelSpec("demo"))
    assert again.run().failed == 3
    stored = Vectors.read(many.parent / "v.npy")
    assert np.array_equal(stored.values, found.values, equal_nan=True)
    assert stored.paths == found.paths


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("-o", "v.txt"), "end in .npy, .safetensors, .parquet, not 'v.txt'", 2),
        ((), "embed needs a file for its vectors: --output FILE", 2),
        (("-o", "v.npy", "--resume", "--overwrite"), "cannot be used together", 2),
        (("-o", "v.npy", "-m", "some.onnx"), "an exported graph gives no vectors", 1),
        (("-o", "missing/v.npy"), "does not exist; create it first", 1),
        (("-o", "mine.npy"), "'mine.npy.names.csv' exists already", 1),
    ],
)
def test_what_is_refused(embed, drawn_image, tmp_path, arguments, message, code):
    (tmp_path / "mine.npy.names.csv").write_text("mine")
    done = embed(drawn_image, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert not list(tmp_path.glob("v*"))
    assert (tmp_path / "mine.npy.names.csv").read_text() == "mine"


@pytest.mark.parametrize("damage", ["names", "no names", "record", "other record", "vectors"])
def test_damaged_outputs_are_refused(embed, images, tmp_path, damage):
    embed(images, "-o", "v.npy")
    path, record = tmp_path / "v.npy", tmp_path / "v.npy.run.json"
    if damage == "names":
        names_path(path).write_text("path,error\na.jpg,\n")
    elif damage == "no names":
        names_path(path).unlink()
    elif damage == "record":
        record.unlink()
    elif damage == "other record":
        record.write_text(record.read_text().replace('"features"', '"logits"'))
    else:
        np.save(path, np.zeros((12, 3, 1)))
    with pytest.raises(OutputError, match=r"'.*v\.npy'"):
        Vectors.read(path)
    if damage == "vectors":
        done = embed(images, "-o", "v.npy", "--resume")
        assert done.returncode == 1
        assert "vectors are missing" in done.stderr


def test_what_is_no_file_of_vectors(embed, drawn_image, tmp_path, suffix):
    embed(drawn_image, "-o", f"v{suffix}")
    path = tmp_path / f"v{suffix}"
    whole = path.read_bytes()
    others = [b"", b"\0", b"\xff" * 40, b"PAR1" * 9, b"\x02" + bytes(7) + b"{}"]
    for damaged in (*others, whole[:-9], whole[:90], *(other + whole for other in others[1:])):
        path.write_bytes(damaged)
        with pytest.raises(OutputError, match=f"v{suffix}' does not hold vectors of images"):
            Vectors.read(path)


def test_old_vectors_do_not_stay_beside_new_names(embed, images, tmp_path, suffix, monkeypatch):
    embed(images, "-o", f"v{suffix}")

    def cut_short(self, images):
        yield from islice(whole(self, images), 12)
        raise KeyboardInterrupt

    whole = Classifier.features
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "features", cut_short)
        done = embed(images, "-o", f"v{suffix}", "--overwrite", "--crop", 64)
    assert done.returncode == 130
    assert "interrupted after 12 images; they are saved, --resume continues" in done.stderr
    with pytest.raises(OutputError, match="is unfinished"):
        Vectors.read(tmp_path / f"v{suffix}")
    assert embed(images, "-o", f"v{suffix}", "--resume", "--crop", 64).returncode == 0
    assert len(Vectors.read(tmp_path / f"v{suffix}")) == 12


def test_memory_does_not_grow_with_the_images(tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(300):
        drawn(40, 40, seed=number % 7).save(folder / f"{number}.png")
    few, all_ = (
        peak("embed", folder, "-m", "demo", "-o", tmp_path / f"{n}.npy", "--limit", n)
        for n in (60, 300)
    )
    assert all_ < few * 1.05
