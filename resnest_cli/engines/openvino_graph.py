"""OpenVINO graphs: read from the files that `resnest export` writes, and fed with stored pixels."""

from __future__ import annotations

from pathlib import Path

from resnest_cli.card import METADATA_KEY, ModelCard
from resnest_cli.engines.openvino_runtime import ov
from resnest_cli.errors import CheckpointError
from resnest_cli.preprocess import Preprocessing

# where the card stands in a graph: in OpenVINO's own files, and in ONNX files as it reads them
CARD_PLACE = [METADATA_KEY, "card"]
_PLACES = (CARD_PLACE, ["framework", METADATA_KEY])


def read_graph(path: Path) -> tuple[ov.Model, ModelCard]:
    """The graph of an .onnx or .xml file, and its card: float32 (N, 3, crop, crop) to logits.

    Raises:
        CheckpointError: the file is damaged, of another program, or not what its card says.
    """
    try:
        graph = ov.Core().read_model(path)
        place = next((place for place in _PLACES if graph.has_rt_info(place)), None)
        text = graph.get_rt_info(place).astype(str) if place else None
        found = [[port.partial_shape for port in ports] for ports in (graph.inputs, graph.outputs)]
    except (RuntimeError, ValueError) as error:  # ValueError: bytes in a message that are no text
        raise unusable(path, error) from error
    if text is None:
        raise CheckpointError(
            f"'{path}' does not say how pictures are brought to it and what its outputs mean\n"
            "use a file that 'resnest export' wrote"
        )
    try:
        card = ModelCard.from_json(text)
    except ValueError as error:
        raise CheckpointError(f"the card in '{path}' cannot be used: {error}") from error
    view = card.preprocessing
    wanted = ([-1, card.in_channels, view.crop, view.crop], [-1, card.num_classes])
    if found != [[ov.PartialShape(shape)] for shape in wanted]:
        raise CheckpointError(f"the graph in '{path}' has other inputs or outputs than its card")
    return graph, card


def unusable(path: Path, error: Exception) -> CheckpointError:
    """An error in words for what OpenVINO says of a graph."""
    line = (str(error).strip().splitlines() or ["no reason given"])[-1][:200]
    return CheckpointError(f"'{path}' is damaged or no graph: {line}")


def with_pixels(graph: ov.Model, view: Preprocessing) -> ov.Model:
    """A graph that takes one picture, uint8 (1, crop, crop, 3), and normalises by itself.

    With the batch's size known, what is compiled is a twentieth quicker, and sooner loaded.
    """
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    prepare = steps.input().preprocess().convert_element_type(ov.Type.f32)
    prepare.mean([255 * m for m in view.mean]).scale([255 * s for s in view.std])
    made = steps.build()
    made.reshape([1, view.crop, view.crop, 3])
    return made
