"""What is installed, what it can use on this machine, and whether it works."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from resnest_cli import settings
from resnest_cli.catalog import demo
from resnest_cli.engines.api import RuntimeOptions
from resnest_cli.engines.cache_folder import cache_items
from resnest_cli.engines.select import resolve_engine
from resnest_cli.errors import ResNeStError
from resnest_cli.text import counted, one_line
from resnest_cli.version import __version__

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "typer", "rich", "requests")
_OPTIONAL = {  # by import name: the distribution's name, and the extra that installs it
    "pyarrow": ("pyarrow", "parquet"),
    "openvino": ("openvino", "fast"),
    "onnx": ("onnx", "export"),
    "matplotlib": ("matplotlib", "train"),
    "sklearn": ("scikit-learn", "train"),
}
_REPORTER = "openvino_telemetry"  # sends usage data when OpenVINO's converters are imported


def diagnose() -> Iterator[tuple[str, dict[str, str]]]:
    """Facts about this installation, by title; the last ones have `works` or `failed`."""
    contacted = _watch_network()
    yield "Versions", _versions()
    yield "Devices", _devices()
    yield "Engines", _engines()
    yield "Cache", _cache()
    yield "Self-test", _self_test() | {"telemetry": _telemetry(contacted)}


def _watch_network() -> list[str]:
    """The hosts that any library in this process contacts or looks up from now on."""
    contacted: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            contacted.append(str(arguments[0]))
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            contacted.append(str(arguments[1][0]))

    sys.addaudithook(hook)
    return contacted


def _telemetry(contacted: list[str]) -> str:
    """Whether what ran so far, the engines included, has reported to anybody."""
    if _REPORTER in sys.modules:
        return f"on: {_REPORTER} is imported"
    return f"on: {', '.join(dict.fromkeys(contacted))} contacted" if contacted else "off"


def _versions() -> dict[str, str]:
    facts = {
        "resnest": __version__,
        "python": f"{platform.python_version()} at {sys.executable}",
        "platform": platform.platform(),
    }
    facts |= {package: _version(package) for package in _PACKAGES}
    for package, (name, extra) in _OPTIONAL.items():
        missing = f"not installed; pip install 'resnest-cli[{extra}]'"
        facts[name] = _version(name) if find_spec(package) else missing
    return facts


def _version(distribution: str) -> str:
    from importlib import metadata  # slow to import

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"torch": f"cannot be imported: {error}; reinstall it: pip install torch"}
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    facts = {"cpu": f"{threads} threads, {capability}"}
    for number in range(torch.cuda.device_count()):
        facts[f"cuda:{number}"] = torch.cuda.get_device_name(number)
    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
        facts["cuda"] = f"not available (this PyTorch is built for {built})"
    if torch.backends.mps.is_available():
        facts["mps"] = "Apple GPU"
    return facts


def _engines() -> dict[str, str]:
    facts = {"torch": "available"}
    if find_spec("openvino"):
        from resnest_cli.engines.openvino.runtime import supported_precisions

        facts["openvino"] = f"available on the CPU: {', '.join(supported_precisions())}"
    else:
        facts["openvino"] = "not installed; pip install 'resnest-cli[fast]'"
    try:
        facts["auto"] = f"{resolve_engine(RuntimeOptions())} on this machine"
    except ResNeStError as error:
        facts["auto"] = one_line(str(error))
    return facts


def _cache() -> dict[str, str]:
    folder = settings.home()
    facts = {
        "folder": f"{folder}{'' if folder.is_dir() else ' (does not exist yet)'}",
        "downloads": "off ($RESNEST_OFFLINE)" if settings.offline() else "allowed",
    }
    try:
        items = cache_items()
    except ResNeStError as error:
        return facts | {"folder": str(error)}
    for item in items:
        if item.kind == "checkpoint":
            facts[item.name] = f"{item.path}, {item.bytes / 1e6:.0f} MB"
    for kind, noun in (("compiled", "compiled model"), ("partial", "leftover")):
        sizes = [item.bytes for item in items if item.kind == kind]
        if sizes:
            facts[kind] = f"{counted(len(sizes), noun)}, {sum(sizes) / 1e6:.0f} MB"
    return facts


def _self_test() -> dict[str, str]:
    """Classify the bundled image with the bundled model."""
    from resnest_cli.inference.classifier import Classifier

    image, expected = demo.example()
    start = time.monotonic()
    try:
        classifier = Classifier(demo.DEMO)
        top1 = classifier(image).top1
    except ResNeStError as error:
        return {"failed": one_line(str(error))}
    if top1.label != expected:
        return {"failed": f"{image.name} is classified as '{top1.label}', not '{expected}'"}
    answer = f"{image.name} is a {top1.label} ({top1.probability:.0%})"
    return {"works": f"{answer}, {time.monotonic() - start:.1f} s · {classifier.describe()}"}
