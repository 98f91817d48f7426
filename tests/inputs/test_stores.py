"""Object stores as inputs: what is named, what is listed, and what goes wrong."""

import pickle

import pytest

from resnest_cli.cluster.manifest import _decoded, _encoded
from resnest_cli.errors import ResNeStError
from resnest_cli.inputs.discover import Inputs, expand
from resnest_cli.inputs.walk import LeftOut
from tests.conftest import drawn
from tests.hostile import stored
from tests.inputs.test_archives import HOSTILE, make, outcome

PNG = stored(drawn(40, 40), "PNG")


def names(store, *inputs: str) -> list[str]:
    return [s.name.removeprefix("s3://photos/") for s in expand(f"s3://photos/{i}" for i in inputs)]


def test_objects_prefixes_and_globs(store):
    odd = ["a b.png", "c#d.png", "e%20f.png", "g?h.png", "[i].png", "ü.png", "~j.png", "k+&l.png"]
    for key in [*odd, "in/x/1.png", "in/2.JPG", "in/.3.png", "in/notes.txt", "in/@eaDir/4.png",
                "in/s.tar", "inside.png", "in/"]:  # fmt: skip
        store.put(f"p/{key}", PNG if key != "in/" else b"")
    left_out = LeftOut()
    found = list(expand(["s3://photos/p/in"], left_out=left_out))
    assert [s.name for s in found] == ["s3://photos/p/in/2.JPG", "s3://photos/p/in/x/1.png"]
    assert "2 files" in str(left_out)
    assert "@eaDir" in str(left_out)
    assert all(isinstance(outcome(s), bytes) for s in found)
    assert sorted(names(store, "p/*.png")) == sorted(f"p/{k}" for k in (*odd, "inside.png"))
    assert names(store, "p/**/*.png")[:1] == ["p/[i].png"]
    assert "p/in/x/1.png" in names(store, "p/**/*.png")
    assert names(store, "p/in/") == names(store, "p/in")
    selected = Inputs("s3://photos/p", include="in/x/*")
    assert [s.name for s in selected.sources()] == ["s3://photos/p/in/x/1.png"]
    for key in odd:
        (one,) = expand([f"s3://photos/p/{key}"])
        assert isinstance(outcome(one), bytes), key
    assert len(names(store, "", "p/in")) == len(names(store, "")) + 2


def test_what_does_not_exist(store):
    store.put("p/unnamed", PNG)
    with pytest.raises(ResNeStError, match="holds no image there"):
        Inputs("s3://photos/none/").sources()
    (row,) = expand(["s3://photos/none.jpg"])
    assert outcome(row) == "no such object"
    (row,) = expand(["s3://photos/none.tar"])
    assert row.error == "no such object"
    (row,) = expand(["s3://elsewhere/x.jpg"])
    assert outcome(row) == "no such bucket"
    (row,) = expand(["s3://elsewhere/x"])
    assert row.error == "no such bucket"
    (row,) = expand(["s3:///x"])
    assert "no bucket" in str(row.error)
    (row,) = expand(["s3://photos/p/unnamed"])
    assert isinstance(outcome(row), bytes)


def test_hostile_images_in_a_store_are_rows_and_their_neighbours_unchanged(store, tmp_path):
    for inner, content in HOSTILE.items():
        store.put(f"h/{inner}", content)
        (tmp_path / inner).write_bytes(content)
    found = {s.name: s for s in expand(["s3://photos/h/"])}
    assert len(found) == len(HOSTILE) >= 60
    for inner in HOSTILE:
        source = found[f"s3://photos/h/{inner}"]
        again = _decoded(_encoded(pickle.loads(pickle.dumps(source))))
        assert again == source
        assert outcome(again) == outcome(next(expand([str(tmp_path / inner)]))), inner


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_hostile_images_in_archives_in_a_store(form, store, tmp_path):
    local = make(tmp_path / form, HOSTILE)
    url = store.put(form, (tmp_path / form).read_bytes())
    sources, plain = list(expand([url])), list(expand([local]))
    assert [s.name.removeprefix(url) for s in sources] == [
        s.name.removeprefix(local) for s in plain
    ]
    for source, other in zip(sources, plain, strict=True):
        again = _decoded(_encoded(source))
        assert again == source
        assert outcome(again) == outcome(other), source.name


def test_archives_are_read_by_ranges(store, tmp_path):
    files = {f"{n}.png": stored(drawn(400, 400, seed=n), "PNG") for n in range(30)}
    assert sum(map(len, files.values())) > 2**23
    for form in ("a.tar", "a.zip", "a.parquet"):
        make(tmp_path / form, files)
        url = store.put(form, (tmp_path / form).read_bytes())
        last = list(expand([url]))[-1]
        store.gets.clear()
        assert last.content.read() == files["29.png"]
        assert store.gets[form] <= (1 if form != "a.parquet" else 6), form


@pytest.mark.parametrize("form", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_a_cut_archive_in_a_store(form, store, tmp_path):
    files = {f"{n}.png": stored(drawn(80, 80, seed=n), "PNG") for n in range(9)}
    make(tmp_path / form, files)
    whole = (tmp_path / form).read_bytes()
    (tmp_path / form).write_bytes(whole[: len(whole) * 2 // 3])
    url = store.put(form, whole[: len(whole) * 2 // 3])
    rows, plain = list(expand([url])), list(expand([str(tmp_path / form)]))
    assert [outcome(r) for r in rows[:-1]] == [outcome(r) for r in plain[:-1]]
    assert "cut or damaged" in str(rows[-1].error)
