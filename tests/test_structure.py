"""The rules that the code keeps: imports go down only, torch stays where it belongs, style."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "resnest_cli"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
# what may import torch when it is itself imported
TORCH = (
    "resnest_cli.model",
    "resnest_cli.engines.torch_engine",
    "resnest_cli.engines.openvino_convert",
    "resnest_cli.engines.ncnn_graph",
    "resnest_cli.bench",
    "resnest_cli.export",
    *(
        f"resnest_cli.training.{n}"
        for n in (
            "augment",
            "data",
            "distributed",
            "network",
            "parts",
            "record",
            "state",
            "teachers",
            "trainer",
            "view",
        )
    ),
)
# each layer imports from those below it, never from those above
LAYERS = [
    ["__main__"],
    ["cli"],
    ["commands"],
    ["evaluation", "training", "export", "bench"],
    ["classifier", "output", "matching"],
    ["engines"],
    ["model"],
    ["batch", "parquet", "terminal", "folders"],
    ["checkpoints", "sources", "writers"],
    ["card", "digests", "images", "bundled", "charts"],
    ["fetch", "cache"],
    ["variants", "labels"],
    ["preprocess", "results"],
    ["resample", "files", "guarded", "decoding", "processors"],
    ["errors"],
]


def layer(module: str) -> int:
    part = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if part in names)


def imports(tree: ast.AST, *, module_level: bool) -> set[str]:
    found: set[str] = set()
    for node in tree.body if module_level else ast.walk(tree):  # type: ignore[attr-defined]
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if "." in m])
def test_imports_go_down_only(module):
    found = imports(ast.parse(MODULES[module].read_text()), module_level=False)
    for name in found & MODULES.keys() - {"resnest_cli"}:
        same = name.split(".")[1] == module.split(".")[1]
        assert same or layer(name) > layer(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_where_it_belongs(module):
    found = imports(ast.parse(MODULES[module].read_text()), module_level=True)
    names = {name.split(".")[0] for name in found}
    assert not {"torch", "torchvision"} & names or module.startswith(TORCH)


@pytest.mark.parametrize("path", [*PACKAGE.rglob("*.py"), *ROOT.glob("tests/**/*.py")], ids=str)
def test_files_and_functions_are_short(path: Path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = (node.end_lineno or 0) - node.body[0].lineno
            assert body <= 60, node.name


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=" ".join,
)
def test_style_and_types(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
