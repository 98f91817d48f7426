"""What takes the network itself, in PyTorch: finer maps, and the split attention of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from resnest_cli.explain.maps import Explained
from resnest_cli.model.checkpoint import load_checkpoint
from resnest_cli.model.precision import disable_tf32
from resnest_cli.model.resnest import Bottleneck, ResNeSt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from resnest_cli.inference.classifier import Classifier

    Floats = NDArray[np.float32]

FINER = 4  # parts of a cell's side: as many as the second stage has values there
_TINY = 1e-20


class BlockAttention(NamedTuple):
    """The split attention of one block for one image."""

    block: str  # such as layer1.0
    weights: Floats  # (radix, channels)
    neutral: Floats  # (classes): the network's logits with this block's attention neutral

    @property
    def entropy(self) -> float | None:
        """Mean over the channels, 0 (one split has all) to 1 (even); None with one split."""
        if len(self.weights) == 1:
            return None
        shares = self.weights.clip(_TINY)
        bits = -(shares * np.log(shares)).sum(0, dtype=np.float64)
        return float(bits.mean() / np.log(len(shares)))


class Inside:
    """A classifier's network in float32, each step of which can be seen and changed."""

    def __init__(self, classifier: Classifier) -> None:
        device = classifier.engine.device.split(",")[0]
        network = load_checkpoint(classifier.engine.weights).network()
        self._network: ResNeSt = network.requires_grad_(False).to(device)
        self._view, self._device = classifier.preprocessing, device

    def detail(self, pixels: NDArray[np.uint8], maps: Sequence[Explained]) -> list[Floats]:
        """The maps of an image (crop, crop, 3), `FINER` times as fine in each direction.

        Each cell's value is shared out among its parts as LayerCAM over stages 2 to 4 has it: the
        mean over the parts of a cell is the cell's value, so their mean is the map's.
        """
        x = self._input(pixels).requires_grad_(True)
        with disable_tf32():
            stages = self._network.stage_features(x)[1:]
            logits = self._logits(stages[-1])
            return [self._shared(e, stages, _target(logits, e)) for e in maps]

    def _shared(self, explained: Explained, stages: list[Tensor], target: Tensor) -> Floats:
        rows, columns = explained.values.shape
        size = rows * FINER, columns * FINER
        gradients = torch.autograd.grad(target, stages, retain_graph=True)
        signed = [
            layer_cam(stages, [sign * g for g in gradients], size).detach().cpu().numpy()
            for sign in (1, -1)
        ]
        return shared_out(explained.values, *signed)

    @torch.inference_mode()
    def attention(self, pixels: NDArray[np.uint8]) -> tuple[Floats, list[BlockAttention]]:
        """The logits of an image (crop, crop, 3), and the attention of each block."""
        net = self._network
        blocks = [(n, m) for n, m in net.named_modules() if isinstance(m, Bottleneck)]
        found = []
        with disable_tf32():
            x = net.maxpool(net.relu(net.bn1(net.conv1(self._input(pixels)))))
            for number, (name, block) in enumerate(blocks):
                with _replaced(block.conv2.fc2, torch.zeros_like):
                    changed = x
                    for _, later in blocks[number:]:
                        changed = later(changed)
                given: list[Tensor] = []
                with _replaced(block.conv2.fc2, given.append):
                    x = block(x)
                weights = block.conv2.attention(given[0]).reshape(block.conv2.radix, -1)
                neutral = self._logits(changed)
                found.append(BlockAttention(name, _array(weights), _array(neutral)))
            return _array(self._logits(x)), found

    def _input(self, pixels: NDArray[np.uint8]) -> Tensor:
        ready = np.ascontiguousarray(self._view.normalise(pixels).transpose(2, 0, 1))
        return torch.from_numpy(ready)[None].to(self._device)

    def _logits(self, maps: Tensor) -> Tensor:
        logits: Tensor = self._network.fc(maps.mean((2, 3)))[0]
        return logits


def layer_cam(
    stages: Sequence[Tensor], gradients: Sequence[Tensor], size: tuple[int, int]
) -> Tensor:
    """The sum of the stages' LayerCAMs (Jiang et al., IEEE TIP 2021), each with largest value 1.

    A stage's is the sum over its channels of the maps times what is positive of the gradient; maps
    are not negative here. All are brought to `size`, between the centres linearly.
    """
    total = torch.zeros(size, device=stages[0].device)
    for maps, gradient in zip(stages, gradients, strict=True):
        cam = (gradient.clamp(min=0) * maps).sum(1, keepdim=True)  # (1, 1, rows, columns)
        cam = cam / cam.max().clamp(min=_TINY)
        total += interpolate(cam, size, mode="bilinear", align_corners=False)[0, 0]
    return total


def shared_out(values: Floats, positive: Floats, negative: Floats) -> Floats:
    """Each value (rows, columns) over its parts, in proportion to the map of its sign.

    The maps are of the parts, and not negative; where one is 0 in all parts, they are equal.
    """
    rows, columns = values.shape
    parts = rows, positive.shape[0] // rows, columns, positive.shape[1] // columns
    whole = values[:, None, :, None].astype(np.float64)
    chosen = np.where(whole > 0, positive.reshape(parts), negative.reshape(parts))
    mean = chosen.mean((1, 3), keepdims=True, dtype=np.float64)
    share = np.where(mean > _TINY, chosen / np.maximum(mean, _TINY), 1)
    return (whole * share).reshape(positive.shape).astype(np.float32)


def _target(logits: Tensor, explained: Explained) -> Tensor:
    logit = logits[explained.index]
    return logit if explained.against is None else logit - logits[explained.against]


@contextmanager
def _replaced(module: nn.Module, change: Callable[[Tensor], Any]) -> Iterator[None]:
    """A module whose output is what `change` makes of it, or unchanged if that gives None."""
    hook = module.register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        hook.remove()


def _array(values: Tensor) -> Floats:
    return values.cpu().numpy()
