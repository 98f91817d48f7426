"""The page of results in a real browser that has no network."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resnest_cli.report.page_of_results import report
from tests.conftest import drawn
from tests.report.browser import chromium, requested
from tests.report.results import failed, row, write

HOSTILE = (
    "d/<img src=x onerror=alert(1)>.png", "d/</script><script>alert(2)</script>.png",
    "d/\u202egnp.exe", "d/\udcff\ud800.png", "d/&quot;\"'.png", "d/שלום.png",
)  # fmt: skip
SHOWN = (
    "<img src=x onerror=alert(1)>.png", "script>.png", "\\u202egnp.exe", "\\udcff\\ud800.png",
    "&quot;\"'.png", "שלום.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder) as made:
        made.folder = folder
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of 60 images: 40 cats, 12 hostile names, 8 failures."""
    folder = tmp_path_factory.mktemp("page")
    drawn().save(folder / "a.png")
    rows = [row(folder / "a.png", "cat", 0, n / 40) for n in range(40)]
    rows += [row(name, "<b>dog</b>", 1, 0.5) for name in HOSTILE * 2]
    rows += [failed(f"bad{n}.jpg", f"<i>reason</i> {n}") for n in range(8)]
    report(write(folder / "r.jsonl", rows), folder / "r.html")
    return (folder / "r.html").as_uri()


@pytest.fixture
def seen(browser: Any, page: str) -> Any:
    browser.get("about:blank")
    requested(browser)
    browser.get_log("browser")
    browser.get(page)
    return browser


def texts(browser: Any, part: str) -> list[str]:
    """The texts of a part of the visible tiles, by their place."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.tile:not([hidden])')]"
        ".sort((a, b) => a.getAttribute('aria-posinset') - b.getAttribute('aria-posinset'))"
        f".map((tile) => tile.querySelector('{part}:not([hidden])')?.textContent ?? '')"
    )


def put(browser: Any, **values: str) -> None:
    """Fill in filters, as a user who types."""
    for name, value in values.items():
        browser.execute_script(
            "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
            "f.dispatchEvent(new Event('input', { bubbles: true }))",
            name, value,
        )  # fmt: skip


def count(browser: Any) -> str:
    return browser.execute_script("return document.getElementById('count').textContent")


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def test_it_asks_for_nothing_but_files_and_logs_nothing(seen):
    put(seen, search="d/")
    put(seen, search="")
    seen.execute_script("document.querySelector('.tile').click()")
    time.sleep(0.3)
    assert requested(seen) <= {"file", "data", "about"}
    assert seen.get_log("browser") == []
    width = seen.execute_script("return document.getElementById('detail-image').naturalWidth")
    assert width == 320  # the original, by its link


def test_the_page_cannot_call_out(seen):
    seen.execute_script(
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);"
        "fetch('http://127.0.0.1:9/').catch(() => 0);"
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s)"
    )
    time.sleep(0.3)
    log = [entry["message"] for entry in seen.get_log("browser")]
    assert len([line for line in log if "Content Security Policy" in line]) >= 3
    assert seen.execute_script("return window.ran") is None


def test_hostile_names_are_text(seen):
    put(seen, search="d/")
    assert texts(seen, "bdi.name") == list(SHOWN * 2)
    assert set(texts(seen, "bdi.label")) == {"<b>dog</b>"}
    assert seen.execute_script("return document.querySelectorAll('#gallery b, script').length") == 3


def test_filters_and_their_state_in_the_address(seen, page):
    assert count(seen) == "60 of 60 images shown"
    put(seen, show="failed")
    assert count(seen) == "8 of 60 images shown"
    assert texts(seen, ".reason") == [f"<i>reason</i> {n}" for n in range(8)]
    put(seen, show="classified", **{"class": "cat", "from": "0.5"}, sort="low")
    assert count(seen) == "20 of 60 images shown"
    assert texts(seen, "bdi.label")[:2] == ["cat", "cat"]
    address = seen.current_url
    seen.get("about:blank")
    seen.get(address)
    assert count(seen) == "20 of 60 images shown"
    seen.find_element("css selector", "#filters button").click()
    assert count(seen) == "60 of 60 images shown"
    assert seen.current_url == page


def test_the_histogram_filters(seen):
    bar = seen.find_elements("css selector", "#histogram button")[10]
    assert bar.get_attribute("aria-label") == "0.50 to 0.55: 14 images"
    bar.click()
    assert count(seen) == "14 of 60 images shown"
    bar.click()
    assert count(seen) == "60 of 60 images shown"


def test_keyboard_selection_and_export(seen):
    from selenium.webdriver.common.keys import Keys

    seen.find_element("id", "gallery").send_keys(Keys.END)
    press(seen, " ")
    assert count(seen) == "60 of 60 images shown, 1 selected"
    press(seen, Keys.HOME)
    press(seen, Keys.ENTER)
    assert seen.find_element("id", "detail").get_attribute("open")
    press(seen, Keys.ESCAPE)
    press(seen, "/", "onerror")
    assert count(seen) == "2 of 60 images shown, 1 selected"
    seen.find_element("id", "all").click()
    seen.find_element("id", "export").click()
    file = seen.folder / "selection.csv"
    for _ in range(50):
        if file.exists():
            break
        time.sleep(0.1)
    name = HOSTILE[0]
    assert file.read_bytes().endswith(b"</i> 7\r\n")
    assert file.read_text().splitlines() == [
        "path,label,probability,error", f"{name},<b>dog</b>,0.5,", f"{name},<b>dog</b>,0.5,",
        "bad7.jpg,,,<i>reason</i> 7",
    ]  # fmt: skip


@pytest.mark.slow
def test_ten_thousand_images(browser, tmp_path):
    images = [tmp_path / f"{n}.jpg" for n in range(64)]
    for number, path in enumerate(images):
        drawn(seed=number).save(path)
    rows = [row(images[n % 64], f"class {n % 1000}", n % 1000, n / 10_000) for n in range(10_000)]
    target = tmp_path / "r.html"
    report(write(tmp_path / "r.jsonl", rows), target)
    assert target.stat().st_size < 30e6
    began = time.monotonic()
    browser.get(target.as_uri())
    browser.execute_script("return document.querySelector('.tile img').complete")
    first = time.monotonic() - began
    frames = browser.execute_async_script(
        "const end = arguments[0], times = [], g = document.getElementById('gallery');"
        "let n = 0; const step = (t) => { times.push(t); g.scrollTop += 400;"
        "if (++n < 400) requestAnimationFrame(step); else { g.scrollTop = g.scrollHeight;"
        "requestAnimationFrame(() => end(times.slice(1).map((t, i) => t - times[i]).sort("
        "(a, b) => a - b))); } }; requestAnimationFrame(step)"
    )
    browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})  # the pages before this one
    nodes = browser.execute_cdp_cmd("Memory.getDOMCounters", {})["nodes"]
    figures = {"MB": target.stat().st_size / 1e6, "first tile, s": first, "nodes": nodes,
               "frame at 95 %, ms": frames[int(0.95 * len(frames))]}  # fmt: skip
    Path(tmp_path / "figures.json").write_text(json.dumps(figures))
    assert first < 2, figures
    assert nodes < 3000, figures
    assert figures["frame at 95 %, ms"] < 50, figures
