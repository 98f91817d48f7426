"""The training loop: pictures and a recipe to weights, and on from where an earlier run stopped.

The whole state of a run is the network, the optimiser, the averaged weights and how far it is;
random numbers follow from the seed and the place. So a run that was killed and resumed ends with
the same weights, to the bit, as one that was not (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.engines.torch_engine import compiled_by_torch, is_out_of_memory
from resnest_cli.errors import CheckpointError, DatasetError, ResNeStError
from resnest_cli.folders import LabelledPictures
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.preprocess import Preprocessing
from resnest_cli.training.augment import PlainView, mix, training_view
from resnest_cli.training.data import Batch, Order, Pictures, training_batches, validation_batches
from resnest_cli.training.distributed import (
    ALONE,
    Processes,
    SharedDropout,
    share_batch_norms,
)
from resnest_cli.training.parts import (
    Epoch,
    Position,
    Step,
    averaged,
    class_weights,
    optimizer,
    ranks,
)
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.state import State, check_same, read_state, write_state
from resnest_cli.training.teachers import Teachers

log = logging.getLogger(__name__)

_SAVE_EVERY = 300.0  # seconds between two states in the midst of an epoch
_SHOW_EVERY = 0.25  # seconds between two looks at the loss, for which a GPU has to be waited for
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A network in training.

    Args:
        network: to be trained, changed in place.
        train: pictures to learn from.
        val: pictures that tell which epoch was best.
        recipe: how.
        preprocessing: of the network; decides the resolution.
        device: `cpu`, `cuda`, `cuda:N` or `mps`.
        workers: processes that decode.
        state_file: where the state is kept for resuming; None keeps none.
        processes: this process's place among those of the run.
        teachers: networks whose answers stand in for the labels.
        compiled: let torch compile what a step computes; slow to start.
    """

    def __init__(
        self,
        network: ResNeSt,
        train: LabelledPictures,
        val: LabelledPictures,
        *,
        recipe: Recipe,
        preprocessing: Preprocessing,
        device: str = "cpu",
        workers: int = 0,
        state_file: Path | None = None,
        processes: Processes = ALONE,
        teachers: Teachers | None = None,
        compiled: bool = False,
    ) -> None:
        processes.check_batch(recipe.batch_size, pairs=recipe.mixes)
        self.recipe = recipe
        self.device = device
        self.processes = processes
        self.state_file = state_file
        self.at = Position()
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self._dropout = SharedDropout(recipe.dropout, recipe.seed, processes)
        self.network.dropout = self._dropout
        if processes.count > 1:
            share_batch_norms(self.network, device)
        if recipe.freeze:
            self.network.requires_grad_(False)
            self.network.fc.requires_grad_(True)
        shared = processes.share(self.network)
        self._forward = compiled_by_torch(shared) if compiled else shared
        self._averaged = averaged(self.network, recipe.ema) if recipe.ema else None
        self._optimizer = optimizer(self.network, recipe)
        self._scaler = torch.amp.GradScaler(
            torch.device(device).type, enabled=recipe.precision == "fp16"
        )
        self._class_weights = class_weights(train).to(device) if recipe.balance else None
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1) * 255
        part = {"part": processes.rank, "parts": processes.count}
        self._order = Order(len(train), recipe.batch_size, recipe.seed, **part)
        self._train = training_batches(
            Pictures(train, training_view(recipe, preprocessing), recipe.seed, keep=True),
            self._order,
            workers=workers,
        )
        self._val_pictures = len(val)
        self._val = validation_batches(
            # its workers, if any, end with each epoch
            Pictures(val, PlainView(preprocessing), recipe.seed, keep=workers == 0),
            max(recipe.batch_size // processes.count, 1),
            workers=workers,
            **part,
        )
        self._teachers = teachers
        shown = f"{preprocessing.describe()} {preprocessing.mean} {preprocessing.std}"
        self._seen = f"{train.digest()} {val.digest()} {shown}"
        self._stop = False

    @property
    def learned(self) -> ResNeSt:
        """The network as it is to be used: with averaged weights, where they are averaged."""
        return cast("ResNeSt", self._averaged.module) if self._averaged else self.network

    def run(self, on_step: Callable[[Step], None] = lambda _: None) -> Iterator[Epoch]:
        """Train to the end, from wherever the run is; yields each epoch as it ends.

        The caller stores what the epoch gave before it asks for the next one: the state that a
        later run goes on from is written only then, so that nothing of an epoch can be missing.

        Raises:
            KeyboardInterrupt: on Ctrl-C or SIGTERM, with the state written, unless a decoding
                process was stopped as well before a step ended.
            ResNeStError: the loss is no longer a number, or there is no memory for a step.
            OutputError: the state cannot be written.
        """
        with self._stopping_in_order():
            self.save()  # from here on there is something to go on with
            try:
                while self.at.epoch < self.recipe.epochs:
                    yield self._epoch(on_step)
                    self.save()
            except RuntimeError as error:
                if self._stop:  # who stops everything at once may stop the workers first
                    raise KeyboardInterrupt from error
                if is_out_of_memory(error):
                    share = self.recipe.batch_size // self.processes.count
                    raise ResNeStError(
                        f"there is no memory for {share} pictures at a time\n"
                        "give a smaller --batch-size or --crop, or on a GPU --precision bf16"
                    ) from error
                raise

    def _epoch(self, on_step: Callable[[Step], None]) -> Epoch:
        at, steps = self.at, len(self._order)
        self._order.epoch, self._order.first = at.epoch, at.step
        self.network.train(not self.recipe.freeze)
        self._dropout.train()
        start = saved = shown = time.monotonic()
        pictures, before = 0, at.seconds
        for batch in _told(self._train) if at.step < steps else ():
            lr = self._step(batch)
            at.step += 1
            pictures += self.recipe.batch_size
            now = time.monotonic()
            at.seconds = before + now - start
            if now - shown > _SHOW_EVERY or at.step == steps:
                size = self.recipe.batch_size
                on_step(Step(at.epoch + 1, at.step, steps, size, self._loss_so_far, lr))
                shown = now
            if self.processes.any(self._stop, self.device):
                self.save()
                raise KeyboardInterrupt
            if now - saved > _SAVE_EVERY:
                self.save()
                saved = now
        rate = pictures / max(time.monotonic() - start, 1e-9)
        train_loss = self._loss_so_far
        val_loss, top1, top5 = self._validate()
        if not math.isfinite(val_loss):
            raise self._come_apart()
        lr = self.recipe.learning_rate(at.epoch + 1)
        row = Epoch(at.epoch + 1, lr, train_loss, val_loss, top1, top5, rate, at.seconds)
        at.history.append(row)
        at.epoch, at.step, at.seconds = at.epoch + 1, 0, 0.0
        return row

    def _step(self, batch: Batch) -> float:
        """One step of the optimiser; the learning rate it was made with."""
        at, recipe = self.at, self.recipe
        place = at.epoch * len(self._order) + at.step
        lr = recipe.learning_rate(place / len(self._order))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._dropout.step = place
        rng = np.random.default_rng([recipe.seed, at.epoch, at.step])
        pixels = self._normalised(batch.pixels)
        classes = F.one_hot(batch.targets.to(self.device), self.network.num_classes).float()
        targets = mix(pixels, classes, recipe, rng)
        with self._autocast():
            if self._teachers:
                targets = self._teachers(pixels)
            logits = self._forward(pixels)
        loss = F.cross_entropy(
            logits.float(), targets, self._class_weights, label_smoothing=recipe.label_smoothing
        )
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_grad:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_grad)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._averaged:
            self._averaged.update_parameters(self.network)
        self._note(loss.detach())
        return lr

    _loss_sum: Tensor | None = None

    @property
    def _wide(self) -> torch.dtype:
        """Of sums; Apple's GPUs have no float64."""
        return torch.float32 if self.device == "mps" else torch.float64

    def _note(self, loss: Tensor) -> None:
        if self.at.step == 0 or self._loss_sum is None:
            self._loss_sum = torch.zeros((), dtype=self._wide, device=loss.device)
        own = loss.to(self._loss_sum.dtype)
        self._loss_sum += self.processes.total(own) / self.processes.count

    @property
    def _loss_so_far(self) -> float:
        """The mean loss of this epoch's steps, over the processes.

        Raises:
            ResNeStError: it is not a number: the run has come apart.
        """
        if self._loss_sum is None or not self.at.step:
            return math.nan
        mean = float(self._loss_sum) / self.at.step
        if not math.isfinite(mean):
            raise self._come_apart()
        return mean

    def _come_apart(self) -> ResNeStError:
        return ResNeStError(
            f"the loss is no longer a number (epoch {self.at.epoch + 1}, step {self.at.step})"
            "\ntry a lower --lr, a longer --warmup-epochs, or --clip-grad 1"
        )

    def _normalised(self, pixels: Tensor) -> Tensor:
        wide = pixels.to(self.device, non_blocking=True).to(memory_format=torch.channels_last)
        return wide.float().sub_(self._mean).div_(self._std)

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES[self.recipe.precision]
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype, enabled=self.recipe.precision != "fp32")

    def _validate(self) -> tuple[float, float, float]:
        """Mean loss, top-1 and top-5 in per cent, over all validation pictures."""
        network = self.learned.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.inference_mode(), self._autocast():
            for batch in _told(self._val):
                logits = network(self._normalised(batch.pixels)).float().cpu()
                rank = ranks(logits, batch.targets)
                loss = F.cross_entropy(logits, batch.targets, reduction="sum")
                sums += torch.stack([loss, (rank < 1).sum(), (rank < 5).sum()]).double()
        if self.processes.count > 1:
            sums = self.processes.total(sums.to(self.device)).cpu()
        loss, top1, top5 = (sums / self._val_pictures).tolist()
        return loss, 100 * top1, 100 * top5

    def save(self) -> None:
        """Keep the state in the state file.

        Raises:
            OutputError: that cannot be done.
        """
        if self.state_file is None or not self.processes.leads:
            return
        state = State(
            network=self.network.state_dict(),
            averaged=self._averaged.state_dict() if self._averaged else None,
            optimizer=self._optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            at=self.at,
            loss_sum=self._loss_sum,
            recipe=self.recipe.as_dict(),
            seen=self._seen,
        )
        write_state(state, self.state_file)

    def restore(self) -> None:
        """Go on from the state in the state file.

        Raises:
            CheckpointError: it is damaged, or belongs to another recipe or network.
            ResNeStError: it cannot be read just now.
        """
        assert self.state_file is not None
        state = read_state(self.state_file)
        check_same(state, self.recipe, self._seen, self.state_file.parent)
        try:
            self.network.load_state_dict(state.network)
            self._optimizer.load_state_dict(state.optimizer)
            if self._averaged and state.averaged is not None:
                self._averaged.load_state_dict(state.averaged)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"'{self.state_file.parent}' was begun with another network or other classes\n"
                "give the same, or start anew with --overwrite"
            ) from error
        self._scaler.load_state_dict(state.scaler)
        self.at = state.at
        if state.loss_sum is not None:
            self._loss_sum = state.loss_sum.to(self.device, self._wide)

    @contextmanager
    def _stopping_in_order(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run behind the step in hand; a second one ends it now."""

        own = os.getpid()

        def stop(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:  # a decoding process that has just begun
                os._exit(128 + number)
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _told(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches, with a word about pictures that went bad since they were checked."""
    try:
        for batch in batches:
            for name in batch.lost:
                log.warning("%s; its neighbour stands in for it", name)
            yield batch
    except DatasetError as error:  # from a worker, with its traceback
        _, _, own = str(error).strip().splitlines()[-1].rpartition("DatasetError: ")
        raise DatasetError(own) from error
