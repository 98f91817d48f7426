"""A training run at a terminal."""

import io
import sys

from resnest_cli.cli.training_progress import TerminalTraining, chosen_training_progress
from resnest_cli.training.summary import SILENT_TRAINING, EpochStats, Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_show_the_epoch_its_loss_and_the_accuracy(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = chosen_training_progress(quiet=False)
    assert isinstance(progress, TerminalTraining)
    progress.start("checking images")
    progress.total(2)
    progress.advance()
    progress.finish()
    progress.step(Step(1, 4, 1, 2, 8, 1.5, 0.01))
    progress.step(Step(1, 4, 2, 2, 8, 1.25, 0.02))
    progress.epoch(EpochStats(1, 0.02, 1.25, 1.1, 87.5, 100.0, 80.0, 0.2))
    progress.step(Step(2, 4, 1, 2, 8, 1.25, 0.02))
    progress.finish()
    shown = sys.stderr.getvalue()
    for words in ("checking images", "epoch 2/4", "loss 1.250  lr 0.02", " 38 %", "top-1 87.50 %"):
        assert words in shown, words


def test_without_a_terminal_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert chosen_training_progress(quiet=True) is SILENT_TRAINING
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert chosen_training_progress(quiet=False) is SILENT_TRAINING
