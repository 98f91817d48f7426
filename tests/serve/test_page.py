"""The page, in a real Chromium: against a server of the test's own, and against the real one."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

import resnest_cli.serve
from tests.conftest import drawn
from tests.serve.browser import Browser, chromium

PAGE = Path(resnest_cli.serve.__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
MODEL = {
    "name": "resnest50", "preprocessing": "timm (crop 224)", "engine": "torch", "device": "cpu",
    "precision": "fp32", "classes": 1000, "crop": 224, "max_upload_mb": 2, "max_images": 64,
}  # fmt: skip
LABELS = ("Samoyed", "<img src=x onerror=alert(1)>", "\u202egod", "keeshond", "white wolf", "sixth")
ANSWER = [
    {"rank": n + 1, "index": n, "wnid": f"n0211188{n}", "label": label, "probability": 0.7 / 3**n}
    for n, label in enumerate(LABELS)
]


class Handler(BaseHTTPRequestHandler):
    """The page's files, one model, and for each image the same answer, unless told otherwise."""

    protocol_version = "HTTP/1.1"
    server: Stub

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            return self.json(200, {"models": [MODEL]})
        file = PAGE / (self.path[1:] or "index.html")
        if file.is_file():
            return self.send(200, file.read_bytes(), TYPES[file.suffix])
        return self.json(404, {"title": "Not Found", "status": 404})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        names = re.findall(rb'name="images"; filename="([^"]*)"', body)
        self.server.posts.append((time.monotonic(), names))
        if self.server.behaviours:
            return self.server.behaviours.pop(0)(self)
        rows = [{"path": name.decode(), "predictions": ANSWER, "error": None} for name in names]
        return self.json(200, rows, Server_Timing="decode;dur=4.2,compute;dur=31.9")

    def json(self, status: int, value: Any, **headers: str) -> None:
        self.send(status, json.dumps(value).encode(), "application/json", **headers)

    def send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        given = {"Content_Type": kind, "Content_Security_Policy": POLICY} | headers
        for name, value in (given | {"Content_Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Stub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.posts: list[tuple[float, list[bytes]]] = []
        self.behaviours: list[Callable[[Handler], None]] = []


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a dog.jpg", "고양이.png", "<b>bold.jpg")]
    for seed, path in enumerate(paths):
        drawn(seed=seed).save(path)
    return paths


def problem(status: int, detail: str, **headers: str) -> Callable[[Handler], None]:
    body = {"title": "Problem", "status": status, "detail": detail}
    return lambda handler: handler.json(status, body, **headers)


def done(browser: Browser, count: int) -> None:
    """Wait until this number of images is answered or failed."""
    shown = "[...document.querySelectorAll('article')]"
    browser.wait(f"{shown}.filter((one) => !one.ariaBusy).length == {count}")


def assert_quiet(browser: Browser, url: str, expected: str = "") -> None:
    """Nothing was requested elsewhere, and the console is empty but for what is expected."""
    urls, messages = browser.logs()
    assert urls
    assert [one for one in urls if not one.startswith((url, f"blob:{url}", "data:"))] == []
    assert [one for one in messages if not expected or expected not in one] == []


def test_the_page_is_small_and_plain():
    assert sum(file.stat().st_size for file in PAGE.iterdir()) < 100_000
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"https?:|<style|style=|\son\w+=|<script(?! src)", html)
    code = (PAGE / "app.js").read_text()
    assert not re.search(r"https?:|innerHTML|insertAdjacentHTML|\beval\b", code)


def test_both_languages_say_everything():
    code = (PAGE / "app.js").read_text()
    tables = [re.search(rf"^  {one}: {{\n(.*?)^  }},", code, re.M | re.S) for one in ("en", "ko")]
    english, korean = (dict(re.findall(r'^    (\w+): "(.*)",$', one[1], re.M)) for one in tables)
    assert english.keys() == korean.keys()
    used = re.findall(r'data-text="(\w+)"', (PAGE / "index.html").read_text())
    assert {*used, *re.findall(r'\btext\("(\w+)"', code)} <= english.keys()
    for key, value in english.items():
        assert sorted(re.findall(r"{\w+}", value)) == sorted(re.findall(r"{\w+}", korean[key]))


def test_dropped_images_are_answered(stub: Stub, browser: Browser, files: list[Path]):
    browser.open(stub.url)
    browser.wait("document.getElementById('model').innerText")
    model = "Model resnest50 · 1,000 classes · preprocessing timm (crop 224) · torch, cpu, fp32"
    assert browser.text("#model") == model
    browser.drop(*files)
    done(browser, 3)
    assert browser.texts("article h3") == [file.name for file in files]
    rows = [row.split("\n") for row in browser.texts(".predictions li")][:5]
    percents = ("70.0%", "23.3%", "7.8%", "2.6%", "0.9%")
    assert rows == [[a, b] for a, b in zip(LABELS, percents, strict=False)]
    plain = browser.text(".timing").replace("\xa0", " ")
    assert re.fullmatch(r"[\d,]+ ms in total: decoding 4 ms, network 32 ms", plain)
    assert browser.text("#progress") == "3 of 3 done"
    assert f"{files[0].name}: Samoyed, 70.0%" in browser.texts("#log p")
    browser.wait("[...document.images].every((one) => one.naturalWidth == 320)")
    assert_quiet(browser, stub.url)


def test_chosen_files_and_the_keyboard(stub: Stub, browser: Browser, files: list[Path]):
    browser.open(stub.url)
    browser.find("#files").send_keys("\n".join(map(str, files)))
    done(browser, 3)
    browser.find(".remove").send_keys("\ue007")  # Enter
    assert browser.texts("article h3") == [file.name for file in files[1:]]
    focused = "return document.activeElement.ariaLabel ?? document.activeElement.id"
    assert browser.js(focused) == f"Remove {files[1].name}"
    browser.find("#clear").send_keys(" ")
    assert browser.js(focused) == "choose"
    assert not browser.find("#results-section").is_displayed()


def test_a_pasted_image(stub: Stub, browser: Browser):
    browser.open(stub.url)
    browser.cdp(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    browser.driver.execute_async_script("""
        const canvas = Object.assign(document.createElement("canvas"), {width: 50, height: 40});
        canvas.getContext("2d").fillRect(5, 5, 20, 20);
        canvas.toBlob((blob) => navigator.clipboard.write([new ClipboardItem({"image/png": blob})])
            .then(() => arguments[0](), (error) => arguments[0](String(error))));
    """)
    browser.find("body").send_keys("\ue009v")  # Control and V
    done(browser, 1)
    assert browser.texts("article h3") == ["pasted-1.png"]
    assert [names for _, names in stub.posts] == [[b"pasted-1.png"]]


def test_a_photo_of_the_camera(stub: Stub, browser: Browser):
    browser.open(stub.url)
    browser.find("#open-camera").click()
    browser.wait("!document.getElementById('shoot').disabled")
    browser.find("#shoot").click()
    done(browser, 1)
    assert browser.texts("article h3") == ["photo-1.jpg"]
    browser.wait("!document.getElementById('video').srcObject")
    assert_quiet(browser, stub.url)


def test_a_failure_is_shown_with_its_reason(stub: Stub, browser: Browser, tmp_path: Path):
    def broken(handler: Handler) -> None:
        row = {"path": "bad.jpg", "predictions": [], "error": "<i>not an image</i>"}
        handler.json(200, [row])

    browser.open(stub.url)
    browser.wait("document.getElementById('limit').innerText")
    (tmp_path / "bad.jpg").write_text("not an image")
    (tmp_path / "large.jpg").write_bytes(bytes(2_200_000))
    (tmp_path / "folder").mkdir()
    stub.behaviours = [broken]
    browser.drop(*(tmp_path / name for name in ("bad.jpg", "large.jpg", "folder")))
    done(browser, 3)
    shown = dict(zip(browser.texts("h3"), browser.texts(".failed .state"), strict=True))
    assert shown["bad.jpg"] == "<i>not an image</i>"
    assert shown["large.jpg"] == "The file has 2.1 MiB; this server accepts at most 2 MiB"
    assert shown["folder"] == "This is a folder; drop the images in it instead"
    assert len(stub.posts) == 1
    assert browser.texts(".failed button:not(.remove)") == []  # it would fail again


def test_a_busy_server_is_asked_again_when_it_said(stub: Stub, browser: Browser, files: list[Path]):
    stub.behaviours = [problem(429, "The queue is full.", Retry_After="2")]
    browser.open(stub.url)
    browser.drop(files[0])
    browser.wait("document.querySelector('.state')?.innerText.includes('next attempt in 2 s')")
    browser.wait("document.querySelector('.predictions')")
    times = [when for when, _ in stub.posts]
    assert len(times) == 2
    assert times[1] - times[0] >= 2
    assert_quiet(browser, stub.url, "429")


def test_many_images_are_sent_four_at_a_time(stub: Stub, browser: Browser, tmp_path: Path):
    paths = [tmp_path / f"{number}.png" for number in range(13)]
    for path in paths:
        drawn(40, 30).save(path)
    held = Event()

    def hold(handler: Handler) -> None:
        assert held.wait(30)
        handler.json(200, [{"path": "", "predictions": ANSWER, "error": None}])

    stub.behaviours = [hold] * 13
    browser.open(stub.url)
    browser.drop(*paths)
    browser.wait("document.querySelectorAll('article').length == 13")
    time.sleep(0.3)
    assert len(stub.posts) == 4
    browser.find("#results li:nth-child(6) .remove").click()  # not sent yet
    held.set()
    done(browser, 12)
    assert len(stub.posts) == 12
    assert browser.text("#progress") == "12 of 12 done"


def test_a_removed_image_is_not_waited_for(stub: Stub, browser: Browser, files: list[Path]):
    gone = Event()

    def watch(handler: Handler) -> None:
        handler.connection.settimeout(20)
        if handler.connection.recv(1) == b"":
            gone.set()
        handler.close_connection = True

    stub.behaviours = [watch]
    browser.open(stub.url)
    browser.drop(files[0])
    browser.wait("document.querySelector('.state')?.innerText == 'Classifying …'")
    browser.find(".remove").click()
    assert gone.wait(10)
    assert not browser.find("#results-section").is_displayed()


def test_a_server_that_hangs_up(stub: Stub, browser: Browser, files: list[Path]):
    def hang_up(handler: Handler) -> None:
        handler.close_connection = True

    # browsers send once more if a kept connection is closed
    no_json = [lambda handler: handler.send(200, b"no JSON", "text/html")]
    stub.behaviours = [*no_json, *[hang_up] * 3]
    browser.open(stub.url)
    for reason in ("The server's answer could not be read", "The server did not answer"):
        browser.drop(files[0])
        browser.wait(
            f"document.querySelector('.failed .state')?.innerText.startsWith({json.dumps(reason)})"
        )
        browser.find("#clear").click()


@pytest.mark.parametrize(
    ("status", "detail"), [(413, "The upload exceeds 2 MB."), (504, "No answer in time.")]
)
def test_a_refusal(stub: Stub, browser: Browser, files: list[Path], status: int, detail: str):
    stub.behaviours = [problem(status, detail)]
    browser.open(stub.url)
    browser.drop(files[0])
    done(browser, 1)
    assert browser.text(".failed .state").startswith(detail)
    assert browser.texts(".failed .state button") == (["Retry"] if status > 500 else [])
    if status > 500:
        browser.find(".failed .state button").click()
        browser.wait("document.querySelector('.predictions')")


def test_korean_by_the_preference(stub: Stub, browser: Browser, files: list[Path]):
    browser.open(stub.url, language="de-DE,ko-KR,en-US")
    browser.drop(files[0])
    done(browser, 1)
    assert browser.js("return document.documentElement.lang") == "ko"
    assert browser.text("#choose") == "이미지 선택"
    assert browser.text("#progress") == "1개 중 1개 완료"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("width", [1100, 360], ids=["wide", "phone"])
def test_it_looks_right(
    stub: Stub, browser: Browser, files: list[Path], language: str, width: int, dark: bool
):
    """No sideways scrolling and colours as preferred; `$PAGE_SCREENSHOTS` names a folder."""
    shown(stub, browser, files, language=language, dark=dark, width=width)
    assert browser.js(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    background = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(246, 247, 249)")
    if folder := os.environ.get("PAGE_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{language}-{width}-{'dark' if dark else 'light'}.png")
    browser.find("#open-camera").click()
    browser.wait("!document.getElementById('shoot').disabled")
    if folder:
        browser.screenshot(Path(folder) / f"camera-{width}-{'dark' if dark else 'light'}.png")
    browser.find("#close-camera").click()
    browser.wait("!document.getElementById('video').srcObject")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360], ids=["wide", "phone"])
def test_axe_finds_nothing(stub: Stub, browser: Browser, files: list[Path], width: int, dark: bool):
    """`$AXE_CORE` names the axe.min.js of npm's axe-core."""
    if not (path := os.environ.get("AXE_CORE")):
        pytest.skip("axe-core is not there; $AXE_CORE names its axe.min.js")
    shown(stub, browser, files, dark=dark, width=width)
    browser.js(Path(path).read_text())
    assert findings(browser) == []
    browser.find("#open-camera").click()
    browser.wait("!document.getElementById('shoot').disabled")
    assert findings(browser) == []


def shown(stub: Stub, browser: Browser, files: list[Path], **preferences: Any) -> None:
    """Three answered images and a failed one."""
    stub.behaviours = [problem(500, "The image is cut off after 1,024 bytes.")]
    browser.open(stub.url, **preferences)
    browser.drop(files[0], at=(100, 200))
    done(browser, 1)
    browser.drop(*files, at=(100, 200))
    done(browser, 4)


def findings(browser: Browser) -> list[Any]:
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    return browser.driver.execute_async_script(
        f"axe.run({{runOnly: {tags}}}).then((found) => arguments[0]("
        "found.violations.map((one) => [one.id, one.nodes[0].html])))"
    )
