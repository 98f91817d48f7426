"""Wheel, sdist and editable install, each installed and used; labels reach the user in all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CHECK = (
    "from resnest_cli.labels import imagenet1k, _PACKAGE\n"
    "labels = imagenet1k()\n"
    "assert len(labels) == len(set(labels.names)) == 1000\n"
    "assert (labels.names[258], labels.wnids[258]) == ('Samoyed', 'n02111889')\n"
    "print(_PACKAGE)"
)


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def installed_in(folder: Path, check: str = CHECK) -> str:
    """What the check prints with the package from a folder; this checkout is out of sight."""
    code = f"import site; site.addsitedir({str(folder)!r}); import sys\n"
    code += f"sys.path.insert(0, {str(folder)!r})\n{check}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    code = "import hatchling.build, sys; print(hatchling.build.build_sdist(sys.argv[1]))"
    target = tmp_path_factory.mktemp("backend")
    pip("install", "--target", target, "hatchling")
    environment = os.environ | {"PYTHONPATH": str(target)}
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, env=environment, check=True)
    return next(folder.glob("*.tar.gz"))


def test_wheel(tmp_path):
    pip("wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", ROOT)
    (wheel,) = (tmp_path / "wheels").glob("resnest_cli-*.whl")
    pip("install", "--no-deps", "--target", tmp_path / "site", wheel)
    where = installed_in(tmp_path / "site")
    assert where == str(tmp_path / "site" / "resnest_cli")
    assert (tmp_path / "site" / "resnest_cli" / "py.typed").exists()


def test_sdist(sdist, tmp_path):
    pip("install", "--no-deps", "--target", tmp_path / "site", sdist)
    assert installed_in(tmp_path / "site") == str(tmp_path / "site" / "resnest_cli")


def test_editable(tmp_path):
    pip(
        "install",
        "--no-deps",
        "--ignore-installed",
        "--editable",
        ROOT,
        "--prefix",
        tmp_path / "prefix",
    )
    (site,) = (tmp_path / "prefix").rglob("site-packages")
    assert installed_in(site) == str(ROOT / "resnest_cli")
