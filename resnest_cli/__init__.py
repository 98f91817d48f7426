"""Image classification with ResNeSt (Split-Attention Networks, arXiv 2004.08955).

    Classifier       classifies images: paths, URLs, bytes, files, PIL images or arrays
    Result           one image's predictions, or the reason why there are none
    Prediction       one class and its probability
    PredictionJob    any inputs to rows in a file, resumable
    PartitionedJob   the same to a folder, by any number of processes; `merge` makes one file of it
    EmbedJob         any inputs to their vectors in a file, resumable; `Vectors` reads it
    evaluate         measures a model on labelled images
    train            trains or fine-tunes a model on class folders
    export_model     writes a model for other programs
    load_model       a model as a torch.nn.Module
    list_models      the models' names
    ModelSpec, RuntimeOptions, DecodeOptions, Inputs
                     which model, on what it runs, how images are read, and which; picklable
    Progress         receives how far some work is
    ResNeStError     the base of every error raised on purpose

Importing this package is cheap; torch is imported when something needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnest_cli.version import __version__ as __version__

if TYPE_CHECKING:
    from resnest_cli.catalog.variants import list_models as list_models
    from resnest_cli.cluster.job import PartitionedJob as PartitionedJob
    from resnest_cli.cluster.merge import merge as merge
    from resnest_cli.embed.job import EmbedJob as EmbedJob
    from resnest_cli.embed.vectors import Vectors as Vectors
    from resnest_cli.engines.api import ModelSpec as ModelSpec
    from resnest_cli.engines.api import RuntimeOptions as RuntimeOptions
    from resnest_cli.errors import ResNeStError as ResNeStError
    from resnest_cli.evaluation.evaluate import evaluate as evaluate
    from resnest_cli.export.formats import export_model as export_model
    from resnest_cli.imaging.decode_options import DecodeOptions as DecodeOptions
    from resnest_cli.inference.classifier import Classifier as Classifier
    from resnest_cli.inference.job import PredictionJob as PredictionJob
    from resnest_cli.inputs.discover import Inputs as Inputs
    from resnest_cli.model.checkpoint import load_model as load_model
    from resnest_cli.progress import Progress as Progress
    from resnest_cli.results import Prediction as Prediction
    from resnest_cli.results import Result as Result
    from resnest_cli.training.run import train as train


_HOMES = {
    "Classifier": "inference.classifier",
    "DecodeOptions": "imaging.decode_options",
    "EmbedJob": "embed.job",
    "Inputs": "inputs.discover",
    "ModelSpec": "engines.api",
    "PartitionedJob": "cluster.job",
    "Prediction": "results",
    "PredictionJob": "inference.job",
    "Progress": "progress",
    "ResNeStError": "errors",
    "Result": "results",
    "RuntimeOptions": "engines.api",
    "Vectors": "embed.vectors",
    "evaluate": "evaluation.evaluate",
    "export_model": "export.formats",
    "list_models": "catalog.variants",
    "load_model": "model.checkpoint",
    "merge": "cluster.merge",
    "train": "training.run",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
