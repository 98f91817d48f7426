"""One network whose weights are the mean of several that learned the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from resnest_cli import digests
from resnest_cli.errors import UsageError
from resnest_cli.model.load import Loaded


def average(loaded: Loaded, others: Sequence[Loaded], share: float | None = None) -> Loaded:
    """A network and the mean of others, blended weight by weight; the first one's card is kept.

    Where all were trained on from one network that often does better than the best of them, and
    more so on pictures that are unlike those learned from (Wortsman et al., arXiv 2203.05482 and
    2109.01903). Batch norms' statistics are blended as well.

    Args:
        loaded: the first network.
        others: of the same architecture and classes.
        share: of the others' mean, 0 to 1; default: each network counts the same.

    Raises:
        UsageError: they are not networks of one kind.
    """
    share = len(others) / (len(others) + 1) if share is None else share
    state = {key: value.clone() for key, value in loaded.state.items()}
    for other in others:
        mine, theirs = loaded.card, other.card
        if (mine.architecture, mine.in_channels) != (theirs.architecture, theirs.in_channels):
            raise UsageError(f"'{other.path}' is another network than '{loaded.path}'")
        if (mine.labels, mine.num_classes) != (theirs.labels, theirs.num_classes):
            raise UsageError(f"'{other.path}' has other classes than '{loaded.path}'")
    for key, value in state.items():
        if value.is_floating_point():
            mean = torch.stack([other.state[key].double() for other in others]).mean(0)
            state[key] = value.double().lerp(mean, share).to(value.dtype)
    parts = "; ".join(f"{x.path.name}, SHA-256 {digests.of(x.path)}" for x in (loaded, *others))
    origin = f"blend, {share:.3g} of it of others than the first: {parts}"[:500]
    return loaded._replace(state=state, card=replace(loaded.card, origin=origin))
