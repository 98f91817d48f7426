"""What a training run leaves in its folder: weights, history, curves and a summary."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from resnest_cli import charts
from resnest_cli.card import ModelCard
from resnest_cli.files import into_place
from resnest_cli.model.load import save_checkpoint
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.training.parts import Epoch


class Record:
    """The output folder of a run.

    Args:
        folder: made where it is missing.
        card: of the network, as its checkpoints are to carry it.
    """

    def __init__(self, folder: Path, card: ModelCard) -> None:
        self.folder = folder
        self.card = card
        self.best = folder / "best.safetensors"
        self.last = folder / "last.safetensors"

    def note(self, network: ResNeSt, history: Sequence[Epoch], *, half: bool) -> None:
        """Write down what the epoch that has just ended gave."""
        save_checkpoint(self.last, network, self.card, half=half)
        if best_epoch(history) is history[-1]:
            save_checkpoint(self.best, network, self.card, half=half)
        with into_place(self.folder / "history.csv") as path, path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([f.name for f in fields(Epoch)])
            for row in history:
                writer.writerow(
                    f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values()
                )
        charts.draw_curves(
            self.folder / "curves.png",
            losses={
                "training": [row.train_loss for row in history],
                "validation": [row.val_loss for row in history],
            },
            top1=[row.val_top1 for row in history],
            best=best_epoch(history).epoch,
            title=self.card.name,
        )

    def finish(self, history: Sequence[Epoch], facts: dict[str, Any]) -> Epoch:
        """Write the summary, by which a run is known to have ended; gives the best epoch."""
        best = best_epoch(history)
        summary = {
            "name": self.card.name,
            "tool": f"resnest {self.card.tool_version}",
            "best": asdict(best),
            "last": asdict(history[-1]),
            "seconds": round(sum(row.seconds for row in history), 1),
            **facts,
            "architecture": asdict(self.card.architecture),
            "preprocessing": self.card.preprocessing.as_dict(),
            "recipe": self.card.recipe,
        }
        with into_place(self.folder / "summary.json") as path:
            path.write_text(
                json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        return best


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch with the best top-1; of equals, the one with the least loss."""
    return max(history, key=lambda row: (row.val_top1, -row.val_loss))
