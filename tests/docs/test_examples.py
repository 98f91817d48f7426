"""Every example in the README and the documentation does what the text around it says."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from resnest_cli.catalog.demo import demo_checkpoint
from resnest_cli.catalog.variants import get_variant
from tests.conftest import ROOT, Done, drawn, lines
from tests.docs.examples import Block, prints, read_blocks
from tests.docs.shell import Shell, open_shell
from tests.servers import content, serving
from tests.stores import serving as store_serving

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PUBLISHED = ("resnest50",)  # of which a stand-in is on disk, with random weights
CLASSES = ("cat", "dog", "ship")

# other programs' commands: what the examples need of them
OTHERS = {
    "curl": 'exec cat "$HERE/dog.jpg"',
    # tests/training starts several processes; here the command runs in one
    "torchrun": '[ "$1" = --nproc-per-node ] && [ "$3 $4" = "-m resnest_cli" ] && shift 4\n'
    'exec resnest "$@"',
    "pip": f'exec {sys.executable} -IS "$HERE/check_extras.py" "$@"',
}
CHECK_EXTRAS = """
import re, sys
extras = open(sys.argv.pop(1)).read().split("[project.optional-dependencies]")[1]
known = set(re.findall(r"^(\\w+) = \\[", extras, re.M))
_, install, name = sys.argv[:3]
assert install == "install", sys.argv
wanted = re.fullmatch(r"resnest-cli(?:\\[(.*)\\])?", name)
assert wanted and set(filter(None, (wanted[1] or "").split(","))) <= known, name
"""


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A shell with the commands that the examples use."""
    with open_shell() as shell:
        for name, script in OTHERS.items():
            script = script.replace('check_extras.py"', f'check_extras.py" {ROOT}/pyproject.toml')
            shell.add(name, f"#!/bin/sh\nHERE={shell.folder}\n{script}\n")
        (shell.folder / "check_extras.py").write_text(CHECK_EXTRAS)
        drawn(seed=1).save(shell.folder / "dog.jpg")
        yield shell


@pytest.fixture(scope="module")
def published(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder whose weights have the names of published ones and count as verified."""
    home = tmp_path_factory.mktemp("published")
    folder = home / "checkpoints"
    folder.mkdir()
    script = home / "make.py"
    script.write_text(
        "import torch\nfrom resnest_cli import load_model\n"
        + "".join(
            f"torch.save(load_model({name!r}, pretrained=False).state_dict(),"
            f" {str(folder / get_variant(name).file_name)!r})\n"
            for name in PUBLISHED
        )
    )
    done = shell.run(f"python {script}", home, {})
    assert done.returncode == 0, done.stderr
    for name in PUBLISHED:
        variant = get_variant(name)
        record = folder / f"{variant.file_name}.sha256"
        record.write_text(f"{variant.digest:0<64}  {variant.file_name}\n")
    return home


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    folder = tmp_path / "page"
    for number, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for each in range(4):
            image = drawn(120, 90, seed=10 * number + each)
            image.save(folder / "photos" / name / f"{each}.jpg")
    (folder / "more").mkdir()
    drawn(seed=50).save(folder / "more" / "one.png")
    for name in ("dog", "cat"):
        drawn(seed=len(name)).save(folder / f"{name}.jpg")
    (folder / "best.safetensors").write_bytes(demo_checkpoint().read_bytes())
    (folder / "trained" / "plants").mkdir(parents=True)
    (folder / "trained/plants/best.safetensors").write_bytes(demo_checkpoint().read_bytes())
    name = get_variant("resnest50").file_name
    (folder / name).symlink_to(published / "checkpoints" / name)
    (folder / "cifar").symlink_to(folder / "photos")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "names.txt").write_text("\n".join(f"class {n}" for n in range(10)))
    validation = folder / "ILSVRC2012_val"
    validation.mkdir()
    for number, wnid in enumerate(("n02111889", "n02123045"), 1):
        drawn(seed=number).save(validation / f"ILSVRC2012_val_{number:08}.JPEG")
        with (folder / "LOC_val_solution.csv").open("a") as file:
            file.write("" if file.tell() else "ImageId,PredictionString\n")
            file.write(f"ILSVRC2012_val_{number:08},{wnid} 1 2 3 4\n")
    return folder


@pytest.fixture
def environment(published: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home with weights; and a proxy that has an image at every address."""
    home = tmp_path / "cache"
    (home / "checkpoints").mkdir(parents=True)
    for file in (published / "checkpoints").iterdir():
        (home / "checkpoints" / file.name).symlink_to(file)
    image = ROOT / "examples" / "boat.jpg"
    with serving(content(image.read_bytes())) as proxy:
        yield {
            "RESNEST_HOME": str(home),
            "RESNEST_MODEL": "demo",  # of which everything is quicker
            "RESNEST_ENGINE": "torch",
            "OMP_NUM_THREADS": "1",
            "http_proxy": proxy.url,
            "CUDA_VISIBLE_DEVICES": "",
        }


@pytest.fixture
def bucket() -> Iterator[Callable[[Path, Path], dict[str, str]]]:
    """For a page that reads from a store: one with the images of a folder, and the way there."""
    with ExitStack() as stack:

        def fill(page: Path, folder: Path) -> dict[str, str]:
            if "predict s3://" not in page.read_text(encoding="utf-8"):
                return {}
            store, variables = stack.enter_context(store_serving("bucket"))
            for file in sorted((folder / "photos").rglob("*.jpg")):
                store.put(str(file.relative_to(folder)), file.read_bytes())
            with tarfile.open(folder / "stored.tar", "w") as archive:
                archive.add(folder / "photos", "photos")
            store.put("shard.tar", (folder / "stored.tar").read_bytes())
            return variables | {"no_proxy": "127.0.0.1"}

        yield fill


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        *((str(page.relative_to(ROOT)), False) for page in PAGES),
        pytest.param("docs/reference/cli.md", True, marks=pytest.mark.slow),
    ],
)
def test_examples_do_what_the_text_says(
    name: str,
    slow: bool,
    shell: Shell,
    folder: Path,
    environment: dict[str, str],
    bucket: Callable[[Path, Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    page = ROOT / name
    blocks = [block for block in read_blocks(page) if slow or block.option("slow") is None]
    _add_files(page, shell, folder)
    environment = environment | bucket(page, folder)
    for block in blocks:
        if name := block.option("file"):
            (folder / name).write_text(block.text, encoding="utf-8")
        elif name := block.option("quote"):
            assert _unindented(block.text) in _unindented((ROOT / name).read_text())
        elif block.language == "sh" and block.is_run:
            _check_commands(f"{page.name}:{block.line}", block, shell, folder, environment)
    if code := "\n".join(b.text for b in blocks if b.language == "python" and b.is_run):
        script = tmp_path / "page.py"
        script.write_text(code, encoding="utf-8")
        done = shell.run(f"python {script}", folder, environment)
        assert done.returncode == 0, f"{page}: {done.stderr}"


def _check_commands(
    where: str, block: Block, shell: Shell, folder: Path, environment: dict[str, str]
) -> None:
    settings = dict(environment)
    if block.option("offline") is not None:
        settings["RESNEST_OFFLINE"] = "1"
    if block.option("default") is not None:
        del settings["RESNEST_MODEL"]
    printed = ""
    for command in block.commands():
        # a proxy answers for example.org, and cannot for https
        adapted = block.adapted(command).replace(
            "predict https://example.org", "predict http://example.org"
        )
        done = shell.run(adapted, folder, settings)
        _check(done, block.exit_code(command), f"{where}: {command}")
        printed += done.stdout
    if block.output is not None:
        assert prints(block.output, printed), f"{where} prints\n{printed}"


def _check(done: Done, code: int, where: str) -> None:
    assert done.returncode == code, f"{where}\n{done.stdout[-500:]}\n{done.stderr}"
    assert "Traceback" not in done.stderr, f"{where}\n{done.stderr}"
    if code in (1, 2):
        assert re.search("^error: ", done.stderr, re.M), where


def _add_files(page: Path, shell: Shell, folder: Path) -> None:
    """What only some pages need."""
    text = page.read_text(encoding="utf-8")
    if "broken.jpg" in text:
        (folder / "broken.jpg").write_bytes(b"not an image")
    if "plain.pth" in text:
        script = folder / "make.py"
        script.write_text(
            "import torch\nfrom resnest_cli import load_model\n"
            "model = load_model('resnest14', pretrained=False, num_classes=10)\n"
            "torch.save({'state_dict': model.state_dict()}, 'plain.pth')\n"
        )
        done = shell.run("python make.py", folder, {})
        assert done.returncode == 0, done.stderr


def _unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def test_most_examples_are_run() -> None:
    blocks = [block for page in PAGES for block in read_blocks(page)]
    assert sum(block.is_run for block in blocks) > 70
    reasons = [block.option("skip") for block in blocks if block.option("skip") is not None]
    assert len(reasons) <= 15  # what needs a server, a cluster or root is tried by other tests
    assert all(reasons)


def test_the_default_model_is_resnest50(shell: Shell, published: Path, folder: Path) -> None:
    done = shell.run("resnest predict dog.jpg", folder, {"RESNEST_HOME": str(published)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("resnest50 · default (resize 256, crop 224")


def test_the_first_command_of_the_readme_classifies_the_examples(shell: Shell) -> None:
    (command,) = (
        line for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("    python3 -m venv") and "resnest predict" in line
    )  # fmt: skip
    command = "resnest " + command.partition(".venv/bin/resnest ")[2]
    done = shell.run(f"{command} --offline -f jsonl", ROOT, {})
    assert done.returncode == 0, done.stderr
    named = {row["path"]: row["predictions"][0]["label"] for row in lines(done)}
    assert named == {
        "examples/aeroplane.jpg": "airplane",
        "examples/boat.jpg": "ship",
        "examples/car.jpg": "automobile",
    }


def test_documented_keys_are_those_of_results(shell: Shell, folder: Path) -> None:
    page = ROOT / "docs/reference/output-schema.md"
    done = shell.run("resnest predict dog.jpg -m demo -k 1 -o out.jsonl", folder, {})
    assert done.returncode == 0, done.stderr
    row = json.loads((folder / "out.jsonl").read_text())
    shown = json.loads(next(b.text for b in read_blocks(page) if b.language == "json"))
    assert shown.keys() == row.keys()
    assert shown["predictions"][0].keys() == row["predictions"][0].keys()
    text = page.read_text()
    record = json.loads((folder / "out.jsonl.run.json").read_text())
    assert all(f"`{key}`" in text for key in [*record, *record["settings"]])
