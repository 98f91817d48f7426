"""CSV that is read back as it was written, in Python and in spreadsheets."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnest_cli.files import CSVStyle, csv_line, write_csv

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
STARTS = st.sampled_from(["", "'", "=", "+", "-", "@", "\t", "\r"])
CELLS = st.lists(st.builds("".join, st.tuples(STARTS, TEXT)), min_size=1)


@given(st.lists(CELLS, min_size=1), st.sampled_from([",", "\t"]))
def test_any_text_is_read_back(rows, delimiter):
    style = CSVStyle(safe=True)
    lines = [csv_line([style.written(cell) for cell in row], delimiter) for row in rows]
    read = list(csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter))
    assert [[style.read(cell) for cell in row] for row in read] == rows
    assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for row in read for cell in row)


@pytest.mark.parametrize("style", [CSVStyle(), CSVStyle(bom=True, safe=True)], ids=str)
def test_reports_for_spreadsheets(tmp_path, style):
    rows = [["=1+1", -1], ["-a", 0.5], ["'=b", 2], ["c", 3]]
    write_csv(tmp_path / "x.csv", ["@path", "count"], rows, style)
    content = (tmp_path / "x.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") == style.bom
    read = list(csv.reader(content.decode("utf-8-sig").splitlines()))
    mark = "'" if style.safe else ""
    expected = [f"{mark}@path", f"{mark}=1+1", f"{mark}-a", f"{mark}'=b", "c"]
    assert [row[0] for row in read] == expected
    assert [row[1] for row in read] == ["count", "-1", "0.5", "2", "3"]
