"""What the documentation states in tables and figures is what the program does."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import resnest_cli
from resnest_cli import settings
from resnest_cli.catalog.config import METADATA_KEY
from resnest_cli.catalog.demo import example
from resnest_cli.datasets import class_folders
from resnest_cli.engines import cache_folder
from resnest_cli.errors import DatasetError, UsageError
from resnest_cli.evaluation import report
from resnest_cli.export import formats as export
from resnest_cli.net import http
from resnest_cli.outputs import formats
from resnest_cli.training import data, run_folder, summary, trainer
from resnest_cli.training.recipe import make_recipe
from tests.conftest import ROOT, Run, drawn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table whose heading row begins like that."""
    after = text[text.index(f"| {heading} |") :]
    lines = after.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph that `demo` knows, in a folder of its class, too."""
    (tmp_path / "classes" / "ship").mkdir(parents=True)
    for path in (tmp_path / "boat.jpg", tmp_path / "classes" / "ship" / "0.jpg"):
        path.write_bytes(example()[0].read_bytes())
    return tmp_path / "boat.jpg"


def test_the_record_of_a_run(run: Run, photo: Path, tmp_path: Path) -> None:
    assert run("predict", photo, "-m", "demo", "-o", "a.csv").returncode == 0
    record = json.loads((tmp_path / "a.csv.run.json").read_text())
    table = dict(rows(page("docs/reference/output-schema.md").split("Record of a run")[1], "key"))
    assert {name for key in table for name in named(key)} == set(record)
    assert named(table["`settings`"])[1:] == list(record["settings"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["started"])
    # "the table format has none"
    assert run("predict", photo, "-m", "demo", "-o", "a.txt").returncode == 0
    assert not (tmp_path / "a.txt.run.json").exists()


def test_the_columns_of_rows(run: Run, photo: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("csv", "parquet"):
        assert run("predict", photo, "-m", "demo", "-k", 2, "-o", f"a.{suffix}").returncode == 0
    table = rows(page("docs/reference/output-schema.md"), "column")
    names = [name for cell, _ in table for name in named(cell) if not name.startswith(("_", "-"))]
    first = names[:-1] + [n.replace("_1", "_2") for n in names if n.endswith("_1")] + names[-1:]
    found = parquet.read_schema(tmp_path / "a.parquet")
    assert found.names == first
    assert next(csv.reader((tmp_path / "a.csv").read_text().splitlines())) == first
    types = [
        kind for cell in [*table[0][1:], table[1][1], table[3][1]] for kind in cell.split(", ")
    ]
    assert [str(found.field(name).type) for name in names] == types


@pytest.mark.parametrize(
    ("command", "items"),
    [("list-models demo", None), ("evaluate classes -m demo", ""), ("cache", "items"),
     ("bench demo --seconds 0.1 -q --engine torch", "rows"), ("doctor", "")],
)  # fmt: skip
def test_json_of_other_commands(command: str, items: str | None, run: Run, photo: Path) -> None:
    assert run("predict", photo, "-m", "demo").returncode == 0  # something is in the cache
    value: Any = json.loads(run(*command.split(), "--json").stdout)
    table = dict(rows(page("docs/reference/output-schema.md"), "command"))
    documented = named(table[f"`{command.split()[0]}`"].replace("`metrics.json`", ""))
    if items is None:
        assert list(value[0]) == documented
    else:
        inner = list(value[items][0]) if items else []
        assert [*value, *inner] == documented


def test_suffixes_of_results() -> None:
    table = rows(page("docs/guide/formats-and-resume.md"), "suffix")
    assert {s for row in table for s in named(row[0])} == set(formats._SUFFIXES)
    assert run_suffix_help() == set(formats._SUFFIXES) - {".ndjson"}


def run_suffix_help() -> set[str]:
    text = page("resnest_cli/cli/options.py").split('"Write results to FILE: ')[1].split('"')[0]
    return set(re.findall(r"\.[a-z]+", text))


def test_resume_starts_a_new_file_and_errors_count_as_finished(
    run: Run, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    command = ("predict", broken, "-m", "demo", "-o", "a.jsonl", "--resume")
    first = run(*command)
    assert first.returncode == 3  # all inputs failed, and each has its row
    broken.write_bytes(photo.read_bytes())
    again = run(*command)
    assert again.returncode == 3  # "rows with an error count as finished"
    (row,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(row)["error"]


def test_files_of_a_training_run(run: Run, tmp_path: Path) -> None:
    for index, name in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            drawn(60, 60, seed=10 * (index % 2) + number).save(
                tmp_path / "data" / name / f"{number}.png"
            )
    (tmp_path / "data" / "train" / "a" / "broken.png").write_bytes(b"x")
    done = run("train", "data", "-m", "demo", "--epochs", 1, "-j", 0)
    assert done.returncode == 0, done.stderr
    table = rows(page("docs/guide/train.md"), "file")
    documented = {name for row in table for name in named(row[0])}
    found = {path.name for path in (tmp_path / "trained" / "data").iterdir()}
    # a run that has ended needs no state; without a folder `val` val.csv is written
    assert found == documented - {"state.pt", "val.csv"}
    assert documented == set(run_folder.FILES)
    assert summary.SUMMARY_FILE in documented
    assert trainer._SAVE_EVERY == 5 * 60  # "every five minutes"
    assert data._MOST_SUBSTITUTIONS == 10


def test_files_of_an_evaluation(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "classes" / "ship" / "broken.png").write_bytes(b"x")
    (tmp_path / "classes" / "dog").mkdir()
    (tmp_path / "classes" / "dog" / "wrong.jpg").write_bytes(photo.read_bytes())
    done = run("evaluate", "classes", "-m", "demo", "-o", "report")
    assert done.returncode == 3, done.stderr
    table = rows(page("docs/guide/evaluate-and-calibrate.md"), "file")
    documented = {name for row in table for name in named(row[0])}
    assert {path.name for path in (tmp_path / "report").iterdir()} == documented
    assert set(report.FILES) == documented


def test_formats_of_exports() -> None:
    text = page("docs/guide/export.md")
    table = {named(row[0])[0]: row for row in rows(text, "suffix")}
    assert set(table) == {kind.suffix for kind in export.FORMATS.values()}
    for kind in export.FORMATS.values():
        assert named(table[kind.suffix][-1]) == ([kind.extra] if kind.extra else [])
    assert f"more than {export.TOLERANCE:.0e}".replace("e-0", "e-") in text
    assert "| input | `pixels` |" in text
    assert (export._PIXELS, export._LOGITS) == ("pixels", "logits")
    from resnest_cli.engines.openvino.graph import CONFIG_PLACE

    documented = page("docs/reference/checkpoint-format.md")
    assert f"the attribute `value` of `rt_info/{'/'.join(CONFIG_PLACE)}`" in documented
    assert f"`{METADATA_KEY}`" in documented


def test_extras() -> None:
    extras = tomllib.loads(page("pyproject.toml"))["project"]["optional-dependencies"]
    table = {
        named(row[0])[0]: row[1] for row in rows(page("docs/getting-started/install.md"), "extra")
    }
    assert set(table) == set(extras) - {"dev", "docs", "fuzz"}  # those are for contributors
    for name, packages in table.items():
        wanted = {re.split("[>=; ]", text)[0].replace("-", "") for text in extras[name]} - {"tomli"}
        listed = {p.lower().replace(" ", "").replace("-", "") for p in packages.split(", ")}
        assert listed == wanted, name


def test_limits_of_urls() -> None:
    text = page("docs/guide/urls-and-security.md")
    assert http.IMAGE_BYTES == 100 * 2**20
    assert http.IMAGE_SECONDS == 60
    assert http.MAX_REDIRECTS == 5
    assert "100 MiB, one minute and five redirects" in text
    assert "100 MiB, one minute from connecting to the last byte, five redirects" in page(
        "SECURITY.md"
    )


def test_kinds_in_the_cache() -> None:
    text = page("docs/reference/cli.md").split("or kinds: ")[1].split(". ")[0].split(".\n")[0]
    kinds = set(re.findall(r"^    (\w+)  +\S", cache_folder.__doc__ or "", re.M))
    assert set(text.split(", ")) == kinds
    assert set(settings._STORES) < set(cache_folder._FOLDERS) < kinds


def test_variables_of_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are set where the documentation says, unless the user has set them."""
    table = rows(
        page("docs/reference/environment-variables.md").split("if they are not set")[1], "variable"
    )
    documented = {name: row[1] for row in table for name in named(row[0])}
    assert set(documented) == {n for names in settings._STORES.values() for n in names}
    monkeypatch.setenv("MPLCONFIGDIR", "/own")
    for name in set(documented) - {"MPLCONFIGDIR"}:
        monkeypatch.delenv(name, raising=False)
    for library in settings._STORES:
        settings.contain(library)
    for name, text in documented.items():
        if name == "MPLCONFIGDIR":
            assert os.environ.pop(name) == "/own"
        else:
            folder = Path(os.environ.pop(name)).relative_to(settings.home())
            assert folder.parts[0] in named(text)


@pytest.mark.parametrize("value", ["", "0", "false", "no", "1"])
def test_the_variable_that_switches_the_network_off(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEST_OFFLINE", value)
    assert settings.offline() is (value == "1")


def test_sizes_of_features() -> None:
    """The examples of docs/python/models-and-features.md state shapes in comments."""
    import torch

    from resnest_cli import load_model

    model, batch = load_model("demo"), torch.zeros(2, 3, 96, 96)
    with torch.inference_mode():
        assert model(batch).shape == (2, 10)
        assert model.pooled_features(batch).shape == (2, model.fc.in_features)
        sides = [96 // maps.shape[-1] for maps in model.stage_features(batch)]
    assert sides == [4, 8, 16, 32]


def test_the_lines_of_the_reading_tour() -> None:
    files = ("resnest_cli/model/split_attention.py", "resnest_cli/model/resnest.py")
    count = sum(len(page(name).splitlines()) for name in files)
    stated = re.search(r"about (\d+) lines", page("docs/explanation/split-attention.md"))
    assert stated
    assert abs(count - int(stated[1])) <= 10


def test_defaults_of_training() -> None:
    text = page("docs/reference/cli.md").split("## resnest train")[1].split("\n## ")[0]
    stated = dict(re.findall(r"`--([\w-]+)` \| [^|]*\[default: ([^\]]+)\]", text))
    tuned, scratch = make_recipe({}), make_recipe({"scratch": True})
    for name in ("epochs", "lr", "augment"):
        assert stated[name] == f"{getattr(tuned, name)}, with --scratch {getattr(scratch, name)}"
    for name in ("precision", "store", "seed"):
        assert stated[name] == str(getattr(tuned, name)) == str(getattr(scratch, name))
    assert stated["val"] == "val/, valid/, validation/ or test/ in DATA, else held out"
    assert class_folders._VALIDATION_FOLDERS == ("val", "valid", "validation", "test")


@pytest.mark.parametrize(
    ("call", "least", "most"),
    [
        ("Classifier('demo', crop={})", 32, 2048),
        ("Classifier('demo', batch_size={})", 1, 4096),
        ("Classifier('demo', workers={})", 1, 256),
        ("Classifier('demo', top_k={})", 1, 10),
        ("Classifier('demo', threshold={})", 0, 1),
        ("evaluate('missing', 'demo', bins={})", 2, 1000),
        ("train('missing', workers={})", 0, 256),
        ("export_model('demo', 'a.safetensors', crop={}, overwrite=True)", 32, 2048),
    ],
)
def test_ranges_that_docstrings_state(
    call: str, least: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        n: getattr(resnest_cli, n) for n in ("Classifier", "evaluate", "train", "export_model")
    }
    for value in (least - 1, most + 1):
        with pytest.raises(UsageError, match=r"must be|of them"):
            eval(call.format(value), names)
    for value in () if "export" in call else (least, most):  # which would take long
        with suppress(DatasetError):  # the folder is missing, which is noticed later
            eval(call.format(value), names)
