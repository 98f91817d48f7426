"""The rules of the code: imports run down only, torch stays where it belongs, short files."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "resnest_cli"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
# the rooms from the top down: each imports from those below it, never from those above
ROOMS = (
    "cli", "serve", "report", "explain", "evaluation", "training", "cluster", "export",
    "embed", "inference", "engines", "datasets", "outputs", "model", "catalog",
    "inputs", "net", "imaging",
)  # fmt: skip
# and the modules of the root, below every room but for __main__
ROOTS = (
    "hashing", "files", "settings", "hardware", "progress", "text", "results", "errors",
    "version", "file_kinds",
)  # fmt: skip
# what may import torch when it is itself imported
TORCH = ("resnest_cli.model.", "resnest_cli.engines.torch_engine", "resnest_cli.training.",
         "resnest_cli.export.", "resnest_cli.explain.")  # fmt: skip
MOST_ARROWS = 190  # between rooms and root modules
MOST_LINES = 26_000  # the aim is 11,000


def room(module: str) -> str:
    """The room that a module stands in, or its own name if it stands in the root."""
    return module.split(".")[1]


def floor(module: str) -> int:
    """How far down a module stands."""
    return ("__main__", *ROOMS, *ROOTS).index(room(module))


def imported(tree: ast.AST, *, module_level: bool = False) -> set[str]:
    """The names that are imported, those in strings that look like modules included."""
    found: set[str] = set()
    for node in tree.body if module_level else ast.walk(tree):  # type: ignore[attr-defined]
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & MODULES.keys()
    return found


IMPORTS = {
    module: {name for name in imported(tree) & MODULES.keys() if "." in name} - {module}
    for module, tree in TREES.items()
    if "." in module
}


@pytest.mark.parametrize("module", IMPORTS)
def test_imports_run_down_only(module):
    for name in IMPORTS[module]:
        own = room(name) == room(module)
        assert own or floor(name) > floor(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", IMPORTS)
def test_the_public_names_are_for_users(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.module == "resnest_cli":
            assert {f"resnest_cli.{alias.name}" for alias in node.names} <= MODULES.keys()


def test_no_circle_inside_the_rooms_either():
    graph = {module: {n for n in names if n != module} for module, names in IMPORTS.items()}
    # a package's own __init__ holds nothing but its docstring
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' > '.join(error.args[1])}")


def test_few_arrows_between_rooms_and_few_modules_in_the_root():
    arrows = {
        (room(module), room(name))
        for module, names in IMPORTS.items()
        for name in names
        if room(name) != room(module)
    }
    assert len(arrows) <= MOST_ARROWS
    assert len(list(PACKAGE.glob("*.py"))) <= 15


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_where_it_belongs(module):
    names = {name.split(".")[0] for name in imported(TREES[module], module_level=True)}
    assert not {"torch", "torchvision"} & names or module.startswith(TORCH)


@pytest.mark.parametrize("path", [*PACKAGE.rglob("*.py"), *ROOT.glob("tests/**/*.py")], ids=str)
def test_files_and_functions_are_short(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    command = path.parent == PACKAGE / "cli"  # whose option lists don't count
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].lineno if command else node.lineno
            assert (node.end_lineno or 0) - start + 1 <= 60, node.name


def test_the_package_stays_small():
    assert sum(path.read_text().count("\n") for path in MODULES.values()) <= MOST_LINES


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("resnest_cli.cli")])
def test_the_library_knows_no_flags_and_does_not_print(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"(?<![\w-])--[a-z]", node.value), node.value
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print"


def test_commands_hold_options_and_no_loops_over_images():
    """A command calls the library; it does not decode, batch or run a network itself."""
    for module, names in IMPORTS.items():
        if module.startswith("resnest_cli.cli."):
            assert (
                not {"inputs.source", "imaging.decode", "inference.batcher"}
                & {name.removeprefix("resnest_cli.") for name in names}
                or module == "resnest_cli.cli.app"
            ), module
