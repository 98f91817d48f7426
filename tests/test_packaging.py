"""The source distribution, its wheel and an editable install all bring the data files along."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

CHECK = """
import resnest_cli
from resnest_cli.catalog.demo import demo_checkpoint, example
from resnest_cli.catalog.labels import imagenet1k
labels = imagenet1k()
assert len(labels) == len(set(labels.names)) == 1000
assert (labels.names[258], labels.wnids[258]) == ("Samoyed", "n02111889")
assert demo_checkpoint().is_file() and example()[0].is_file()
print(resnest_cli.__path__[0])
"""
BUILD = "import hatchling.build, sys; print(hatchling.build.build_{}(sys.argv[1]))"


def called(*command: object, cwd: Path = ROOT, path: Path | None = None) -> str:
    """What a command prints; of this checkout's packages only those in `path` are in sight."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pip_install(target: Path, *what: object) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    called(sys.executable, "-m", "pip", "install", *quiet, "--target", target, *what)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """A folder with the build backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("backend")
    pip_install(folder, "hatchling>=1.26", "editables")
    return folder


@pytest.fixture(scope="module")
def source(backend, tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    called(sys.executable, "-c", BUILD.format("sdist"), folder, path=backend)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.mark.network
def test_a_wheel_made_of_the_source_distribution(backend, source, tmp_path):
    called(sys.executable, "-c", BUILD.format("wheel"), tmp_path, cwd=source, path=backend)
    (wheel,) = tmp_path.glob("resnest_cli-*.whl")
    site = tmp_path / "site"
    called(sys.executable, "-m", "zipfile", "-e", wheel, site)
    package = site / "resnest_cli"
    assert called(sys.executable, "-c", CHECK, cwd=tmp_path, path=site) == str(package)
    assert (package / "py.typed").exists()
    assert (source / "mkdocs.yml").exists()
    assert (source / "tests" / "conftest.py").exists()


@pytest.mark.network
def test_an_editable_install_uses_the_checkout(backend, tmp_path):
    called(sys.executable, "-c", BUILD.format("editable"), tmp_path, path=backend)
    (wheel,) = tmp_path.glob("*.whl")
    called(sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "site")
    (pth,) = (tmp_path / "site").glob("*.pth")
    path = Path(pth.read_text().strip())
    assert called(sys.executable, "-c", CHECK, cwd=tmp_path, path=path) == str(ROOT / "resnest_cli")
