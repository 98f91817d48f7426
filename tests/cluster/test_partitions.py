"""Partitions: the same bytes by whatever way, other settings refused, failed rows made again."""

import json
import os
import shutil
from pathlib import Path
from threading import Thread

import pytest

from resnest_cli import PredictionJob, merge
from resnest_cli.cluster.manifest import Folder, read_manifest
from resnest_cli.cluster.partitions import (
    part_name,
    read_fingerprint,
    read_record,
    read_rows,
    write_part,
)
from resnest_cli.errors import OutputError
from resnest_cli.inference.classifier import Classifier
from resnest_cli.net import http
from tests.cluster.conftest import SIZE, digests, job
from tests.conftest import drawn
from tests.servers import serving


def test_shards_make_the_bytes_of_one_process(small, finished, tmp_path):
    folder, fmt = finished
    for shard in ("2/3", "3/3", "1/3"):
        job(small, tmp_path / "shards", fmt, shard=shard).run()
    for shard in ("1/2", "4/5"):  # all is done: the number may change
        job(small, tmp_path / "shards", fmt, shard=shard).run()
    assert digests(tmp_path / "shards") == digests(folder)
    assert len([n for n in digests(folder) if n.startswith("part-")]) == 7


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "json", "tsv"])
def test_a_merge_equals_a_plain_run(small, finished, tmp_path, suffix):
    folder, _ = finished
    summary = merge(folder, tmp_path / f"all.{suffix}")
    assert (summary.rows, summary.failed, summary.partitions) == (20, 2, 7)
    plain = job(small, tmp_path / f"plain.{suffix}").job
    PredictionJob(plain.inputs, plain.output, None, plain.model, plain.runtime).run()
    assert (tmp_path / f"all.{suffix}").read_bytes() == plain.output.read_bytes()


def test_twins_at_once_and_a_zombie_do_no_harm(small, finished, tmp_path):
    folder, fmt = finished
    twins = [Thread(target=job(small, tmp_path / "out", fmt).run) for _ in range(3)]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join()
    assert digests(tmp_path / "out") == digests(folder)
    out, name = Folder(tmp_path / "out"), part_name(1, fmt)
    earlier = read_fingerprint(out, name)
    segment = list(read_manifest(out))[1]

    def rows():  # of a process that is stopped between two rows, while others work on
        for number, row in enumerate([*read_rows(out, name, earlier)]):
            if number == 1:
                (tmp_path / "out" / name).unlink()
                job(small, tmp_path / "out", fmt).run()
                assert digests_of_parts(tmp_path / "out") == digests_of_parts(folder)
            yield row, False

    write_part(out, name, rows(), segment, read_record(out))
    assert digests(tmp_path / "out") == digests(folder)


def digests_of_parts(folder: Path) -> dict[str, str]:
    return {n: d for n, d in digests(folder).items() if n.startswith("part-")}


def test_what_is_finished_is_not_computed_again(small, finished, tmp_path, monkeypatch):
    out = copied(finished, tmp_path)
    (out / part_name(2, finished[1])).unlink()
    names: list[str] = []
    load = Classifier.load
    monkeypatch.setattr(Classifier, "load", lambda c, s: names.append(s.name) or load(c, s))
    summary = job(small, out, finished[1]).run()
    assert sorted(Path(n).stem for n in names) == ["006", "007", "008"]
    assert (summary.done, summary.resumed, summary.failed) == (20, 17, 2)
    assert digests(out) == digests(finished[0])


def copied(finished: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


CHANGES = {
    "weights": ["--weights", "OTHER"],
    "top_k": ["-k", "2"],
    "crop": ["--crop", "64"],
    "preprocessing": ["--preprocess", "hub"],
    "labels": ["--labels", "LABELS"],
    "threshold": ["--threshold", "0.1"],
    "precision": ["--precision", "bf16"],
    "engine": ["--engine", "openvino"],
    "exif": ["--no-exif"],
    "background": ["--background", "ffffff"],
    "inputs": ["EXTRA"],
    "partition_size": ["--partition-size", "4"],
    "exclude": ["--exclude", "003*"],
    "limit": ["--limit", "7"],
    "max_pixels": ["--max-pixels", "100000"],
    "stretch": ["--stretch"],
}


@pytest.mark.parametrize("changed", CHANGES)
def test_other_settings_are_refused_and_named(run, small, finished, tmp_path, changed):
    out = copied(finished, tmp_path)
    before = digests(out)
    options = CHANGES[changed][:]
    if changed == "weights":
        other = run("export", "demo", "-o", "other.safetensors", "--store", "fp16")
        assert other.returncode == 0, other.stderr
        options = ["--weights", "other.safetensors"]
    elif changed == "labels":
        (tmp_path / "labels.txt").write_text("".join(f"class {n}\n" for n in range(10)))
        options = ["--labels", "labels.txt"]
    elif changed == "inputs":
        drawn(40, 40).save(tmp_path / "extra.png")
        options = ["extra.png"]
    model = [] if changed == "weights" else ["-m", "demo"]
    size = [] if changed == "partition_size" else ["--partition-size", SIZE]
    done = run("predict", small, *options, *model, *size, "-o", f"{out}/", "-f", finished[1])
    assert done.returncode == 1, done.stderr
    words = {"weights": "weights_sha256", "labels": "labels_sha256", "crop": "preprocessing"}
    word = words.get(changed, changed)
    assert f"{word} was" in done.stderr
    assert digests(out) == before


def test_another_version_of_rows_and_another_format_are_refused(small, finished, tmp_path):
    out = copied(finished, tmp_path)
    record = json.loads((out / "run.json").read_text())
    record["settings"]["rows_version"] = 0
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match="rows_version was 0, now 1"):
        job(small, out, finished[1]).run()
    other = {"jsonl": "parquet", "parquet": "jsonl"}[finished[1]]
    with pytest.raises(OutputError, match=f"format was '{finished[1]}', now '{other}'"):
        job(small, out, other).run()


def test_a_list_that_has_changed_is_refused(run, small, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{small}/{n:03}.png\n" for n in range(6)))
    command = "predict --files-from list.txt -m demo -f jsonl -o out/ --partition-size 3".split()
    assert run(*command).returncode == 3
    assert run(*command).returncode == 3
    with (tmp_path / "list.txt").open("a") as file:
        file.write(f"{small}/019.png\n")
    done = run(*command)
    assert done.returncode == 1
    assert "files_from_sha256 was" in done.stderr


def test_failed_rows_alone_are_made_again(small, finished, tmp_path, monkeypatch):
    fmt = finished[1]
    images = Path(shutil.copytree(small, tmp_path / "images"))
    job(images, tmp_path / "out", fmt).run()
    drawn(48, 40, seed=4).save(images / "004.png")
    names: list[str] = []
    load = Classifier.load
    monkeypatch.setattr(Classifier, "load", lambda c, s: names.append(s.name) or load(c, s))
    summary = job(images, tmp_path / "out", fmt).run()  # an error row is finished
    assert (summary.failed, names) == (2, [])
    summary = job(images, tmp_path / "out", fmt, retry_failed=True).run()
    assert sorted(Path(n).stem for n in names) == ["004", "014"]
    assert (summary.done, summary.failed, summary.resumed) == (20, 1, 18)
    job(images, tmp_path / "undisturbed", fmt).run()
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_faults_that_may_pass_are_told_from_lasting_ones(run, small, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT", 0.0)
    image = (small / "001.png").read_bytes()
    busy = [True]

    def behaviour(handler):
        if "gone" in handler.path:
            handler.answer(404)
        elif "busy" in handler.path and busy[0]:
            handler.answer(503)
        else:
            handler.answer(200, image)

    with serving(behaviour) as server:
        names = [f"{server.url}/{name}" for name in ("fine.png", "gone.png", "busy.png")]
        command = ["predict", *names, "-m", "demo", "--allow-private", "-o", "out/", "-f", "jsonl"]
        done = run(*command)
        assert done.returncode == 3
        assert "2 failed: their rows say why, and 1 of them may succeed at another time" in (
            done.stderr
        )
        assert read_fingerprint(Folder(tmp_path / "out"), "part-000000.jsonl").passing == [2]
        paths = [path for path, _ in server.requests]
        assert [paths.count(f"/{n}.png") for n in ("fine", "gone", "busy")] == [1, 1, 3]
        busy[0] = False
        done = run(*command, "--retry-failed")
        assert "1 failed: their rows say why\n" in done.stderr
        paths = [path for path, _ in server.requests]
        assert [paths.count(f"/{n}.png") for n in ("fine", "gone", "busy")] == [1, 2, 4]


def test_a_cut_partition_is_made_again(small, finished, tmp_path):
    out = copied(finished, tmp_path)
    name = part_name(3, finished[1])
    os.truncate(out / name, (out / name).stat().st_size - 5)
    summary = job(small, out, finished[1]).run()
    assert summary.resumed == 17
    assert digests(out) == digests(finished[0])


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["-f", "csv"], 2, "--format of partitions must be parquet or jsonl, not csv"),
        (["--overwrite"], 2, "--overwrite is not for a folder of partitions"),
        (["--csv-bom"], 2, "are for CSV"),
        (["-"], 2, "standard input cannot be part of a manifest"),
        (["--shard", "4/3"], 2, "--shard must be K/N with K from 1 to N"),
        (["--shard", "auto"], 2, "finds neither a SLURM array"),
        (["-o", "file.jsonl", "--shard", "1/3"], 2, "--shard is for a folder of partitions"),
        (["-o", "file.jsonl", "--retry-failed"], 2, "--retry-failed is for a folder"),
        (["-o", "used/"], 1, "holds other files already"),
    ],
)
def test_what_does_not_suit_is_refused(run, small, tmp_path, options, code, words):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    done = run("predict", small, "-m", "demo", "-o", "out/", *options)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert not list(tmp_path.rglob("part-*"))
