"""`resnest doctor`: what is installed, what it can use, and whether it works."""

from __future__ import annotations

import platform
import sys
import time
from importlib.util import find_spec

import typer

from resnest_cli import __version__, bundled, cache, checkpoints
from resnest_cli.engines.base import MANY, EngineOptions, chosen_engine
from resnest_cli.errors import ResNeStError
from resnest_cli.variants import VARIANTS

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "typer", "rich", "requests")
_EXTRAS = {  # import names, and what they are for
    "pyarrow": "Parquet output: pip install 'resnest-cli[parquet]'",
    "openvino": "speed on a CPU: pip install 'resnest-cli[fast]'",
    "ncnn": "speed on a CPU: pip install 'resnest-cli[fast]'",
    "onnx": "export to .onnx: pip install 'resnest-cli[export]'",
    "matplotlib": "train and evaluate: pip install 'resnest-cli[train]'",
    "sklearn": "evaluate: pip install 'resnest-cli[train]'",
}
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where they are called otherwise


def doctor() -> int:
    """Show versions, devices, engines and the cache, and classify a picture.

    The exit code is 1 if the classification fails.

    Example:

      resnest doctor
    """
    _section("Versions")
    _line("resnest", __version__)
    _line("python", f"{platform.python_version()} at {sys.executable}")
    _line("platform", platform.platform())
    for package in _PACKAGES:
        _line(package, _version(package))
    for package, use in _EXTRAS.items():
        there = find_spec(package) is not None
        name = _DISTRIBUTIONS.get(package, package)
        _line(name, _version(name) if there else f"not there ({use})")
    _devices()
    _cache()
    return _self_test()


def _version(package: str) -> str:
    from importlib import metadata  # slow to import

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not found"


def _devices() -> None:
    _section("Devices")
    try:
        import torch
    except (ImportError, OSError) as error:
        _line("torch", f"cannot be imported: {error}; reinstall it: pip install torch")
        return
    _line("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for number in range(torch.cuda.device_count()):
        _line(f"cuda:{number}", torch.cuda.get_device_name(number))
    if not torch.cuda.is_available():
        built = torch.version.cuda
        _line(
            "cuda", f"none seen (PyTorch is built for {'CUDA ' + built if built else 'CPU only'})"
        )
    if torch.backends.mps.is_available():
        _line("mps", "Apple GPU")
    _section("Engines")
    _line("torch", "ready")
    for name in ("openvino", "ncnn"):
        if find_spec(name):
            _line(name, "ready")
    few, many = (chosen_engine(EngineOptions(device="cpu", many=many)) for many in (False, True))
    _line("auto", f"on this CPU {few}; for {MANY} pictures or more in fp32 {many}")


def _cache() -> None:
    _section("Cache")
    folder = cache.checkpoints_folder()
    _line("folder", f"{folder}{'' if folder.is_dir() else ' (not there yet)'}")
    _line("network", "off ($RESNEST_OFFLINE)" if cache.offline() else "allowed")
    for variant in VARIANTS:
        if path := checkpoints.find(variant):
            _line(variant.name, f"{path.name}, {path.stat().st_size / 1e6:.0f} MB")
    sizes = [path.stat().st_size for path in cache.compiled_folder().glob("*.graph")]
    if sizes:
        what = f"{len(sizes)} network{'' if len(sizes) == 1 else 's'}, {sum(sizes) / 1e6:.0f} MB"
        _line("compiled", f"{what} in {cache.compiled_folder()}; they may be removed")


def _self_test() -> int:
    _section("Self-test")
    try:
        _line("works", _classify_example())
    except ResNeStError as error:
        _line("failed", str(error))
        return 1
    return 0


def _classify_example() -> str:
    """Classify the picture that comes with the package with the bundled model; a line about it."""
    from resnest_cli.classifier import Classifier

    picture, expected = bundled.example()
    start = time.monotonic()
    classifier = Classifier(bundled.DEMO)
    top1 = classifier(picture).top1
    seconds = time.monotonic() - start
    if top1.label != expected:
        raise ResNeStError(f"{picture.name} is called '{top1.label}', not '{expected}'")
    said = f"{picture.name} is a {top1.label} ({top1.probability:.0%}), {seconds:.1f} s"
    return f"{said} · {classifier.describe()}"


def _section(title: str) -> None:
    typer.secho(title, bold=True)


def _line(name: str, value: str) -> None:
    typer.echo(f"  {name:<12} {value}")
