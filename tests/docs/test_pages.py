"""The documentation builds, is up to date, and is written as the project writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from resnest_cli import errors, settings
from resnest_cli.catalog.config import ModelConfig
from resnest_cli.catalog.demo import demo_checkpoint
from tests.conftest import ROOT
from tests.test_structure import ROOMS

README = ROOT / "README.md"
TEXTS = [README, *(ROOT / n for n in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
TEXTS += sorted((ROOT / "docs").rglob("*.md"))

# turns of phrase that the project does without
PATTERNS = (
    "is told", "are told", "tells of", "tell of", "to be had", "gone on with", "goes on with",
    "begun anew", "begin anew", "for who", "in place of", "what stands in the way", "as it is",
)  # fmt: skip


def _code() -> list[Path]:
    return sorted((ROOT / "resnest_cli").rglob("*.py"))


def test_generated_parts_are_up_to_date() -> None:
    from docs import generate

    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python docs/generate.py"


def test_the_readme_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    commands = [line for line in lines if line.startswith("    python3 -m venv")]
    assert len(commands) == 2  # which must each be one line
    assert max(len(line) for line in lines if line not in commands) <= 100
    assert "image classification" in lines[2].lower()


def test_the_site_builds_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"?([^\" >]+)", text)
        assert not [url for url in loaded if url.startswith(("http", "//"))], page


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_use_standard_terms(pattern: str) -> None:
    words = r"[\s#]+".join(pattern.split())  # also over the end of a line
    found = re.compile(rf"\b{words}\b", re.I)
    where = [str(p.relative_to(ROOT)) for p in [*TEXTS, *_code()] if found.search(p.read_text())]
    assert not where


def test_images_are_called_images() -> None:
    count = sum(len(re.findall("picture", p.read_text(), re.I)) for p in [*TEXTS, *_code()])
    assert count < 40


def test_links_to_files_lead_somewhere() -> None:
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(
            r"^\[\w+\]: (\S+)", text, re.M
        )
        for target in targets:
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_files_that_the_security_page_names_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for name in set(re.findall(r"\b((?:tests|fuzz|docs)/[\w/.-]+)", text)):
        assert (ROOT / name).exists(), name


def test_the_layout_names_every_room() -> None:
    page = (ROOT / "docs/project/contributing.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert tuple(named) == ROOMS  # in the order of imports
    modules = {p.stem for p in (ROOT / "resnest_cli").glob("*.py") if not p.stem.startswith("__")}
    assert set(re.findall(r"root \| (.*) \|", page)[0].split(", ")) == modules


def test_environment_variables_are_documented() -> None:
    read = set(re.findall(r"RESNEST_\w+", Path(settings.__file__).read_text()))
    page = (ROOT / "docs/reference/environment-variables.md").read_text()
    assert set(re.findall(r"RESNEST_\w+", page)) == read


def test_exit_codes_are_documented() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text()
    documented = set(map(int, re.findall(r"^\| (\d+) \|", page, re.M)))
    raised = {e.exit_code for e in vars(errors).values() if hasattr(e, "exit_code")}
    assert documented == raised | {3, 130}


def test_the_config_has_the_fields_that_the_reference_lists() -> None:
    from safetensors import safe_open

    page = (ROOT / "docs/reference/checkpoint-format.md").read_text(encoding="utf-8")
    with safe_open(demo_checkpoint(), "np") as file:
        config = json.loads(file.metadata()["resnest"])
    assert config["labels"].keys() == {"names", "wnids"}
    for heading, values in (
        ("key", {"format", *(f.name for f in fields(ModelConfig))}),
        ("`architecture`", config["architecture"]),
        ("`preprocessing`", config["preprocessing"]),
    ):
        (rows,) = re.findall(
            rf"^\| {heading} \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.M
        )
        cells = [row.split("|")[1] for row in rows.splitlines()]
        assert sorted(re.findall("`(\\w+)`", " ".join(cells))) == sorted(values)


def test_versions_agree() -> None:
    from resnest_cli import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
