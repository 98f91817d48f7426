"""Results files: written row by row, cut short anywhere, resumed and read back."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnest_cli.errors import OutputError, UsageError
from resnest_cli.inputs.source import Source
from resnest_cli.outputs.formats import ROW_WRITERS, format_of, read_results
from resnest_cli.outputs.run_info import RunInfo
from resnest_cli.outputs.schema import PredictionSchema
from resnest_cli.outputs.sink import FileOutput, check_target
from resnest_cli.outputs.terminal import TextWriter
from resnest_cli.results import Prediction, Result

ROW_FORMATS = list(ROW_WRITERS)
SCHEMA = PredictionSchema(2)
texts = st.text(st.characters(exclude_characters="\0"), max_size=12)
results = st.builds(
    Result,
    texts,
    st.lists(
        st.tuples(st.integers(0, 999), st.none() | texts, texts, st.floats(0, 1, width=32)),
        max_size=2,
    ).map(
        lambda rows: tuple(
            Prediction(rank, i, w or None, label, float(str(np.float32(p))))
            for rank, (i, w, label, p) in enumerate(rows, 1)
        )
    ),
    st.none() | st.from_regex(r"[a-zé ]{1,9}", fullmatch=True),
)
INFO = RunInfo({"model": "resnest50", "engine": "torch", "top_k": 2}, device="cpu")


def write(path, rows, *, fmt, resume=False, finish=True):
    output = FileOutput(path, fmt=fmt, schema=SCHEMA, info=INFO, resume=resume)
    sources = [Source(row.path) for row in rows]
    left = list(output.remaining(sources))
    by_source = {id(s): row for s, row in zip(sources, rows, strict=True)}
    for source in left:
        output.write(by_source[id(source)])
    if finish:
        output.finish()
    output.close()
    return len(left)


def rows_file(path: Path, fmt: str) -> Path:
    return path.with_name(path.name + ".journal") if fmt == "parquet" else path


def read(path, fmt):
    if fmt == "parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    if fmt in ("csv", "tsv"):
        delimiter = "," if fmt == "csv" else "\t"
        text = io.StringIO(path.read_bytes().decode(), newline="")
        return list(csv.reader(text, delimiter=delimiter))
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if fmt == "json" else [json.loads(x) for x in text.split("\n")[:-1]]


@pytest.mark.parametrize("fmt", ROW_FORMATS)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(results, min_size=1, max_size=6), data=st.data())
def test_an_output_cut_anywhere_is_resumed_to_what_it_would_have_been(
    fmt, rows, data, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("out")
    whole, cut = folder / f"whole.{fmt}", folder / f"cut.{fmt}"
    write(whole, rows, fmt=fmt)
    write(cut, rows, fmt=fmt, finish=False)
    written = rows_file(cut, fmt).read_bytes()
    length = data.draw(st.integers(0, len(written)))
    rows_file(cut, fmt).write_bytes(written[:length])
    write(cut, rows, fmt=fmt, resume=True)
    assert read(cut, fmt) == read(whole, fmt)
    if fmt != "parquet":
        assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("fmt", ROW_FORMATS)
def test_resuming_a_finished_output_adds_only_what_is_new(fmt, tmp_path):
    path = tmp_path / f"out.{fmt}"
    a, b, bad = Result("a"), Result("b"), Result("c", error="empty")
    assert write(path, [a, bad], fmt=fmt) == 2
    assert write(path, [a, b, bad], fmt=fmt, resume=True) == 1
    assert len(read(path, fmt)) == 3 + (fmt in ("csv", "tsv"))
    output = FileOutput(path, fmt=fmt, schema=SCHEMA, info=INFO, resume=True)
    assert (output.finished, output.failed) == (3, 1)
    output.close()


@pytest.mark.parametrize("fmt", ROW_FORMATS)
def test_an_input_named_twice_has_two_rows(fmt, tmp_path):
    path = tmp_path / f"out.{fmt}"
    write(path, [Result("a")], fmt=fmt, finish=False)
    assert write(path, [Result("a"), Result("a")], fmt=fmt, resume=True) == 1


@pytest.mark.parametrize("fmt", ROW_FORMATS)
def test_an_output_of_other_settings_is_refused_and_left_alone(fmt, tmp_path):
    path = tmp_path / f"out.{fmt}"
    write(path, [Result("a")], fmt=fmt)
    before = path.read_bytes()
    for key, value, was in (("model", "resnest101", "resnest50"), ("engine", "openvino", "torch")):
        other = RunInfo({**INFO.settings, key: value}, device="cpu")
        with pytest.raises(OutputError, match=f"{key} was '{was}', now '{value}'"):
            FileOutput(path, fmt=fmt, schema=SCHEMA, info=other, resume=True)
    Path(f"{path}.run.json").unlink()
    with pytest.raises(OutputError, match="missing"):
        FileOutput(path, fmt=fmt, schema=SCHEMA, info=INFO, resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("fmt", ROW_FORMATS)
@pytest.mark.parametrize("line", [b"hello\n", b"\0\xff\n", b"1\n", b"path\n"])
def test_other_files_are_refused_and_left_alone(fmt, line, tmp_path):
    path = tmp_path / f"out.{fmt}"
    write(path, [Result("a")], fmt=fmt)
    path.write_bytes(line * 3)
    with pytest.raises(OutputError, match="cannot be resumed"):
        FileOutput(path, fmt=fmt, schema=SCHEMA, info=INFO, resume=True)
    assert path.read_bytes() == line * 3


@pytest.mark.parametrize(("fmt", "resume"), [("csv", True), ("jsonl", False), ("parquet", True)])
def test_an_output_is_for_one_run_at_a_time(fmt, resume, tmp_path):
    path = tmp_path / f"out.{fmt}"
    path.touch()
    output = FileOutput(path, fmt=fmt, schema=SCHEMA, info=INFO, resume=True)
    output.write(Result("a"))
    second = f"""if True:
        from pathlib import Path
        from resnest_cli.outputs.run_info import RunInfo
        from resnest_cli.outputs.schema import PredictionSchema
        from resnest_cli.outputs.sink import FileOutput
        info = RunInfo({INFO.settings}, device="cpu")
        schema = PredictionSchema(2)
        path = Path({str(path)!r})
        FileOutput(path, fmt={fmt!r}, schema=schema, info=info, resume={resume})"""
    done = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True)
    assert "OutputError: another run is writing to" in done.stderr
    output.write(Result("b"))
    output.finish()
    output.close()
    assert len(read(path, fmt)) == 2 + (fmt in ("csv", "tsv"))
    assert write(path, [Result("c")], fmt=fmt, resume=resume) == 1


def test_csv_columns_are_those_of_the_contract(tmp_path):
    path = tmp_path / "out.csv"
    probability = float(str(np.float32(0.1)))
    write(path, [Result("a,b", (Prediction(1, 3, None, 'the "x"', probability),))], fmt="csv")
    header, row = read(path, "csv")
    assert header == [column.name for column in SCHEMA.columns]
    assert header[:5] == ["path", "index_1", "wnid_1", "label_1", "probability_1"]
    assert header[-1] == "error"
    assert row == ["a,b", "3", "", 'the "x"', "0.1", "", "", "", "", ""]


def test_targets_that_cannot_be_used_are_refused_early(tmp_path):
    exists = tmp_path / "x.csv"
    exists.write_text("mine")
    cases = {
        "exists already": (exists, "csv", False),
        "does not exist": (tmp_path / "no/x.csv", "csv", False),
        "is a folder": (tmp_path, "csv", False),
        "cannot be resumed": (tmp_path / "x.txt", "table", True),
    }
    for reason, (path, fmt, resume) in cases.items():
        with pytest.raises(OutputError, match=reason):
            check_target(path, fmt=fmt, resume=resume, overwrite=False)
    check_target(exists, fmt="csv", resume=False, overwrite=True)
    check_target(exists, fmt="csv", resume=True, overwrite=False)


def test_formats_by_suffix():
    names = ("a.CSV", "a.jsonl", "a.ndjson", "a.parquet", "a.txt", "a.tsv")
    formats = [format_of(Path(name)) for name in names]
    assert formats == ["csv", "jsonl", "jsonl", "parquet", "table", "tsv"]
    for unknown in ("a.xlsx", "results"):
        with pytest.raises(UsageError, match=r"must end in one of \.json, .*\.tsv") as error:
            format_of(Path(unknown))
        assert unknown in str(error.value)


@pytest.mark.parametrize("fmt", ROW_FORMATS)
def test_results_are_read_back_also_from_an_unfinished_file(fmt, tmp_path):
    path = tmp_path / f"out.{fmt}"
    probability = float(str(np.float32(0.1)))
    two = (Prediction(1, 3, "n1", "a\tb", probability), Prediction(2, 4, None, 'c, "d"', 0.0))
    rows = [Result("x\n.jpg", two), Result("y.jpg", error="empty"), Result("z.jpg", two[:1])]
    write(path, rows, fmt=fmt)
    assert list(read_results(path)) == rows
    if fmt != "parquet":
        path.write_bytes(path.read_bytes()[:-9])
        assert list(read_results(path)) == rows[:2]


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet", "a.txt"])
def test_files_that_hold_no_results_are_refused(name, tmp_path):
    (tmp_path / name).write_text("hello,world\n1,2\n")
    with pytest.raises(OutputError):
        list(read_results(tmp_path / name))


def test_the_record_of_version_0_1_is_understood(tmp_path):
    record = {"tool": "resnest 0.1.0", "started": "2026-01-01T00:00:00+00:00", "device": "cpu"}
    settings = {"model": "resnest50", "top_k": 2}
    text = json.dumps(record | {"engine": "torch", "settings": settings})
    (tmp_path / "a.csv.run.json").write_text(text)
    INFO.check_resumes(RunInfo.read(tmp_path / "a.csv"))


def test_plain_tables_show_no_control_characters():
    stream = io.BytesIO()
    TextWriter(stream, foot="foot").write(Result("a\x1b[31m\nb\udce9", error="x\x07"))
    assert stream.getvalue() == b"a\\x1b[31m\\nb\\udce9\n  error: x\\x07\n"
