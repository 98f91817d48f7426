"""The bars of `resnest report`: a page of 10,000 rows in Chromium, and the time to make it.

    python benchmarks/report.py PHOTOS [ROWS]

PHOTOS is a folder of photographs, which are listed again and again until there are ROWS. Chromium
and chromedriver must be installed, and Selenium (extra `dev`). If $AXE_CORE names npm's
axe.min.js, accessibility is checked too. Prints a JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from resnest_cli.report.page_of_results import report
from tests.report.browser import chromium, requested
from tests.report.results import failed, row, write

HOSTILE = (
    "d/<img src=x onerror=alert(1)>.png", "d/</script><script>alert(2)</script>.png",
    "d/\u202egnp.exe", "d/\udcff\ud800.png", "d/=cmd|' '!A1.png", "d/a\nb.png",
)  # fmt: skip
_FIRST = (  # milliseconds from the start of the navigation to a decoded first thumbnail
    "const end = arguments[0]; const wait = () => { const i = document.querySelector("
    "'.tile:not([hidden]) img:not([hidden])'); if (i && i.complete && i.naturalWidth > 1)"
    " requestAnimationFrame(() => end(performance.now())); else requestAnimationFrame(wait); };"
    "wait()"
)
_SCROLL = (  # the time of each frame while the gallery is scrolled by 300 pixels a frame
    "const end = arguments[0], times = [], g = document.getElementById('gallery'); let n = 0;"
    "const step = (t) => { times.push(t); g.scrollTop += n < 200 ? 300 : 6000;"
    "if (++n < 300) requestAnimationFrame(step); else end(times.slice(1).map((t, i) =>"
    "t - times[i]).sort((a, b) => a - b)); }; requestAnimationFrame(step)"
)


def measured(browser: Any, page: Path) -> dict[str, Any]:
    """What the browser says of a page."""
    browser.set_script_timeout(120)
    browser.get("about:blank")
    requested(browser)
    browser.get(page.as_uri())
    first = browser.execute_async_script(_FIRST)
    frames = browser.execute_async_script(_SCROLL)
    browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    nodes = browser.execute_cdp_cmd("Memory.getDOMCounters", {})["nodes"]
    heap = browser.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"]
    found = {
        "first tile, s": round(first / 1000, 2),
        "DOM nodes": nodes,
        "frames under 50 ms, %": round(100 * sum(f < 50 for f in frames) / len(frames), 1),
        "frame, median, ms": round(frames[len(frames) // 2], 1),
        "frame at 95 %, ms": round(frames[int(0.95 * len(frames))], 1),
        "heap after scrolling, MB": round(heap / 1e6, 1),
        "requests": sorted(requested(browser)),
        "browser log": [entry["message"] for entry in browser.get_log("browser")],
    }
    if path := os.environ.get("AXE_CORE"):
        browser.execute_script(Path(path).read_text(encoding="utf-8"))
        found["axe"] = browser.execute_async_script(
            "axe.run().then((f) => arguments[0](f.violations.map((v) => v.id)))"
        )
    return found


def main(photos: Path, count: int) -> dict[str, Any]:
    """The figures of a page of so many rows."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    odd = [row(name, "<b>odd</b>", 1000, 0.5) for name in HOSTILE]
    odd += [failed(f"bad {n}.jpg") for n in range(100)]
    rows = []
    for n in range(count - len(odd)):
        rows.append(row(files[n % len(files)], f"class {n % 1000}", n % 1000, n % 997 / 997))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results, page = write(folder / "r.jsonl", rows + odd), folder / "report.html"
        began = time.monotonic()
        summary = report(results, page)
        seconds = time.monotonic() - began
        beside = sum(f.stat().st_size for f in folder.glob("report.files/*"))
        with chromium(folder) as browser:
            return {
                "rows": summary.images, "photographs": len(files), "made in, s": round(seconds, 1),
                "page, MB": round(page.stat().st_size / 1e6, 1),
                "side files, MB": round(beside / 1e6, 1), **measured(browser, page),
            }  # fmt: skip


if __name__ == "__main__":
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    print(json.dumps(main(Path(sys.argv[1]), size), indent=2))
