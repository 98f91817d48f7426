"""The page with true classes, maps and side files, in a real browser; and on paper."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.datasets.labelled_folder import LabelledFolder
from resnest_cli.report import chunks
from resnest_cli.report.page_of_results import report
from tests.conftest import drawn
from tests.report.browser import chromium, requested
from tests.report.results import row, write
from tests.report.test_page import count, press, put, texts


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder) as made:
        made.folder = folder
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 4 cats, one of them taken for a dog, 2 dogs and a missing image; one map."""
    folder = tmp_path_factory.mktemp("joined")
    rows = []
    for number, (is_, said) in enumerate(["cc", "cc", "cc", "cd", "dd", "dd"]):
        path = folder / "in" / is_ / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(seed=number).save(path)
        rows.append(row(path, said, "cd".index(said), 0.4 + number / 10))
        second = dict(rows[-1]["predictions"][0], rank=2, label="x", index=9, probability=0.3)
        rows[-1]["predictions"].append(second)
    rows.append(row(folder / "in/c/=gone.png", "c", 0, 0.95))
    (folder / "why").mkdir()
    drawn(480, 300).save(folder / "why" / "m.png")
    shown = {"label": "c", "against": None, "image": "m.png"}
    maps = [{"path": rows[0]["path"], "classes": [shown], "size": [320, 240], "error": None}]
    write(folder / "why" / "explain.jsonl", maps)
    report(write(folder / "r.jsonl", rows), folder / "r.html",
           truth=LabelledFolder(folder / "in"), explain=folder / "why")  # fmt: skip
    return folder


@pytest.fixture
def seen(browser: Any, folder: Path) -> Any:
    browser.get("about:blank")
    browser.get((folder / "r.html").as_uri())
    return browser


def script(browser: Any, text: str) -> Any:
    return browser.execute_script(f"return {text}")


def test_cells_of_the_confusion_open_their_images(seen):
    assert script(seen, "document.getElementById('accuracy').textContent") == (
        "Confusion: 5 of 6 images with a true class right (83.3 %)"
    )
    seen.find_element("id", "accuracy").click()
    cells = seen.find_elements("css selector", "#confusion button")
    assert sorted(cell.get_attribute("aria-label") for cell in cells) == [
        "c as c: 3 images", "c as d: 1 image", "d as d: 2 images",
    ]  # fmt: skip
    next(c for c in cells if "c as d" in c.get_attribute("title")).click()
    assert count(seen) == "1 of 7 images shown"
    assert texts(seen, ".truth") == ["is c"]
    assert "true=c" in seen.current_url
    put(seen, true="", **{"class": ""}, show="wrong")
    assert count(seen) == "1 of 7 images shown"
    put(seen, show="right", true="d")
    assert count(seen) == "2 of 7 images shown"


def test_margins_and_missing_images(seen):
    put(seen, margin="0.25")
    assert count(seen) == "2 of 7 images shown"
    put(seen, margin="", show="missing")
    assert texts(seen, ".reason") == ["not there when this page was made"]


def test_the_map_is_shown_instead(seen):
    first = "document.querySelector('.tile img').src"
    plain = script(seen, first)
    press(seen, "m")
    assert script(seen, first) != plain
    assert seen.current_url.endswith("#maps=on")
    seen.execute_script("document.querySelector('.tile').click()")
    image = "document.getElementById('detail-image')"
    time.sleep(0.3)
    assert script(seen, f"{image}.src").endswith("/why/m.png")
    assert script(seen, f"{image}.naturalWidth") == 480
    assert seen.find_element("id", "detail-map").text == "Map of c"
    seen.find_element("id", "detail-map").click()
    assert script(seen, f"{image}.src").endswith("/0.png")
    assert script(seen, first) == plain


def test_spreadsheets_execute_nothing(seen, folder):
    seen.execute_script(
        "URL.createObjectURL = (blob) => { blob.text().then((t) => { window.saved = t; });"
        "return 'data:,'; }"
    )
    put(seen, search="=gone")
    seen.find_element("id", "export").click()
    time.sleep(0.3)
    head, line, end = script(seen, "window.saved").split("\r\n")
    assert (head, end) == ("path,label,probability,error,true", "")
    assert line == f"{folder}/in/c/=gone.png,c,0.95,,"
    names = ["=1+1", "+1", "-1", "@x", "'=1", "\tx", 'a"b', "a\nb", "a,b", "plain"]
    report(write(folder / "f.jsonl", [row(n) for n in names]), folder / "f.html")
    seen.get((folder / "f.html").as_uri())
    seen.execute_script(
        "URL.createObjectURL = (blob) => { blob.text().then((t) => { window.saved = t; });"
        "return 'data:,'; }"
    )
    seen.find_element("id", "export").click()
    time.sleep(0.3)
    lines = script(seen, "window.saved").split("\r\n")[1:-1]
    assert [line.removesuffix(",cat,0.9,") for line in lines] == [
        "'=1+1", "'+1", "'-1", "'@x", "''=1", "'\tx", '"a""b"', '"a\nb"', '"a,b"', "plain",
    ]  # fmt: skip


def test_thumbnails_of_side_files(browser, folder, monkeypatch):
    monkeypatch.setattr(chunks, "MOST_INSIDE", 500)
    rows = [row(folder / "in/c" / f"{n % 3}.png") for n in range(1100)]
    page = folder / "many #1 ü.html"
    report(write(folder / "many.jsonl", rows), page)
    browser.get("about:blank")
    requested(browser)
    browser.get(page.as_uri())
    press(browser, "/")
    browser.find_element("id", "gallery").send_keys("\ue010")  # End
    for _ in range(50):
        sources = browser.execute_script(
            "return [...document.querySelectorAll('.tile:not([hidden]) img')].map((i) => i.src)"
        )
        if all(source.startswith("data:image/webp") for source in sources):
            break
        time.sleep(0.1)
    assert sources
    assert all(source.startswith("data:image/webp") for source in sources)
    assert requested(browser) <= {"file", "data", "about"}
    assert browser.get_log("browser") == []


def test_paper_holds_all_tiles(seen):
    seen.execute_script("dispatchEvent(new Event('beforeprint'))")
    tiles = script(seen, "document.querySelectorAll('.tile:not([hidden])').length")
    seen.execute_script("dispatchEvent(new Event('afterprint'))")
    assert tiles == 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing(seen, width, scheme):
    """`$AXE_CORE` names the axe.min.js of npm's axe-core."""
    if not (path := os.environ.get("AXE_CORE")):
        pytest.skip("axe-core is not there; $AXE_CORE names its axe.min.js")
    feature = {"name": "prefers-color-scheme", "value": scheme}
    seen.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    seen.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False,
    })  # fmt: skip
    seen.execute_script("document.getElementById('truth').open = true")
    seen.execute_script("document.getElementById('provenance').open = true")
    seen.execute_script(Path(path).read_text())
    run = ("axe.run().then((f) => arguments[0]("
           "f.violations.map((v) => [v.id, v.nodes.map((n) => n.html)])))")  # fmt: skip
    assert seen.execute_async_script(run) == []
    seen.execute_script("document.querySelector('.tile').click()")
    assert seen.execute_async_script(run) == []
    seen.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
