"""A checkpoint to an OpenVINO graph: read and built with torch, once."""

from __future__ import annotations

import warnings

import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor

from resnest_cli.card import ModelCard
from resnest_cli.engines.base import EngineOptions
from resnest_cli.model.load import build, load_state


def convert(options: EngineOptions) -> tuple[ov.Model, ModelCard]:
    """The graph of a network, and its card: uint8 (N, crop, crop, 3) in, float32 (N, classes) out.

    Normalisation is part of the graph.

    Raises:
        CheckpointError: the weights are damaged or of another network.
    """
    loaded = load_state(options.model, weights=options.weights, offline=options.offline)
    view = loaded.card.preprocessing
    network = build(loaded.state, loaded.card)
    example = torch.zeros(1, loaded.card.in_channels, view.crop, view.crop)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # advice about tracing is for developers
        shape = ov.PartialShape([-1, *example.shape[1:]])
        graph = ov.convert_model(network, example_input=example, input=[shape])
    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    prepare = steps.input().preprocess().convert_element_type(ov.Type.f32)
    prepare.mean([255 * m for m in view.mean]).scale([255 * s for s in view.std])
    return steps.build(), loaded.card
