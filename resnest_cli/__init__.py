"""ResNeSt (Split-Attention networks, arXiv 2004.08955) for naming pictures.

    Classifier       names pictures: a path, URL, bytes, PIL image or array
    Result           one picture's predictions, or the reason why there are none
    Prediction       one class and its probability
    load_model       a variant as a torch.nn.Module
    list_models      the variants' names
    ResNeStError     the base of every error raised on purpose

Importing this package is cheap; torch is imported when something needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnest_cli.classifier import Classifier
    from resnest_cli.errors import ResNeStError
    from resnest_cli.model.load import load_model
    from resnest_cli.results import Prediction, Result
    from resnest_cli.variants import list_models

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Prediction",
    "ResNeStError",
    "Result",
    "__version__",
    "list_models",
    "load_model",
]

_HOMES = {
    "Classifier": "classifier",
    "Prediction": "results",
    "ResNeStError": "errors",
    "Result": "results",
    "list_models": "variants",
    "load_model": "model.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
