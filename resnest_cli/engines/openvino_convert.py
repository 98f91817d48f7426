"""A network in PyTorch to an OpenVINO graph."""

from __future__ import annotations

import warnings

import torch

from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions, check_compilable
from resnest_cli.engines.openvino_runtime import ov
from resnest_cli.model.load import build, load_state
from resnest_cli.model.resnest import ResNeSt


def convert(options: EngineOptions) -> tuple[ov.Model, ModelCard]:
    """The graph of a checkpoint's network, and its card.

    Raises:
        CheckpointError: the weights are damaged or of another network.
        EngineError: the network is not for pictures, or for too small ones.
    """
    loaded = load_state(options.model, weights=options.weights, offline=options.offline)
    card = loaded.card.at_crop(options.crop)
    check_compilable(card)
    return to_graph(build(loaded.state, card), card), card


def to_graph(network: ResNeSt, card: ModelCard) -> ov.Model:
    """A graph of any batch: float32 (N, channels, crop, crop) to float32 (N, classes)."""
    crop = card.preprocessing.crop
    example = torch.zeros(1, card.in_channels, crop, crop)
    from openvino.tools.ovc import convert_model

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # advice about tracing is for developers
        shape = ov.PartialShape([-1, *example.shape[1:]])
        return convert_model(network, example_input=example, input=[shape])
