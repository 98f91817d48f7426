"""The training loop: images and a recipe to weights, resumable at any step.

The whole state of a run is the network, the optimizer, the averaged weights and how far it is;
random numbers follow from the seed and the place. So a run that was killed and resumed ends with
the same weights, to the bit, as an uninterrupted one (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnest_cli.datasets.class_folders import LabelledImages
from resnest_cli.engines.torch_engine import compiled_by_torch, is_out_of_memory
from resnest_cli.errors import CheckpointError, ResNeStError
from resnest_cli.imaging.preprocessing import Preprocessing
from resnest_cli.model.precision import DTYPES, disable_tf32
from resnest_cli.model.resnest import ResNeSt
from resnest_cli.training import components, data
from resnest_cli.training.distill import Predict
from resnest_cli.training.distributed import (
    SINGLE_PROCESS,
    DistContext,
    SharedDropout,
    share_batch_norms,
)
from resnest_cli.training.recipe import Recipe
from resnest_cli.training.state import RunProgress, TrainingState
from resnest_cli.training.summary import EpochStats, Step
from resnest_cli.training.transforms import BatchMixer, mix_seed, train_transform

_SAVE_EVERY = 300.0  # seconds between two states within an epoch
_SHOW_EVERY = 0.25  # seconds between two reports of the loss, for which a GPU has to be waited for

OnStep = Callable[[Step], None]


@contextmanager
def memory_errors(what: str, advice: str) -> Iterator[None]:
    """Raise `ResNeStError` if a device has not enough memory for something."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ResNeStError(f"not enough memory {what}\n{advice}") from error


class Trainer:
    """A network in training, which is changed in place; see `Recipe` and `train`."""

    def __init__(
        self,
        network: ResNeSt,
        train: LabelledImages,
        val: LabelledImages,
        *,
        recipe: Recipe,
        preprocessing: Preprocessing,
        device: str = "cpu",
        workers: int = 0,
        state_file: Path | None = None,
        processes: DistContext = SINGLE_PROCESS,
        teacher: Predict | None = None,
        torch_compile: bool = False,
    ) -> None:
        assert recipe.batch_size
        self.recipe = recipe
        self.device = device
        self.processes = processes
        self.state_file = state_file
        self.progress = RunProgress()
        self._batch_size = recipe.batch_size
        self._own_batch_size = recipe.batch_size // processes.world_size
        self._teacher = teacher
        self._stop = components.StopRequest()
        self._loss = components.RunningLoss(processes, device)
        self._mixer = BatchMixer(recipe, network.num_classes)
        weights = components.class_weights(train).to(device) if recipe.class_weights else None
        self._class_weights = weights
        self._mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1) * 255
        self._prepare_network(network, torch_compile=torch_compile)
        self._prepare_data(train, val, preprocessing, workers)

    def _prepare_network(self, network: ResNeSt, *, torch_compile: bool) -> None:
        recipe, device = self.recipe, self.device
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self._dropout = SharedDropout(recipe.dropout, recipe.seed, self.processes)
        self.network.dropout = self._dropout
        if self.processes.world_size > 1:
            share_batch_norms(self.network, device)
        if recipe.freeze_backbone:
            self.network.requires_grad_(False)
            self.network.fc.requires_grad_(True)
        wrapped = self.processes.wrap_ddp(self.network)
        self._forward = compiled_by_torch(wrapped) if torch_compile else wrapped
        self._ema = components.ema_model(self.network, recipe.ema) if recipe.ema else None
        self._optimizer = components.optimizer(self.network, recipe)
        kind = torch.device(device).type
        self._scaler = torch.amp.GradScaler(kind, enabled=recipe.precision == "fp16")
        self._autocast = torch.autocast(
            kind, DTYPES[recipe.precision], enabled=recipe.precision != "fp32"
        )

    def _prepare_data(
        self, train: LabelledImages, val: LabelledImages, shown: Preprocessing, workers: int
    ) -> None:
        recipe, rank, world_size = self.recipe, self.processes.rank, self.processes.world_size
        self._sampler = data.EpochSampler(
            len(train), self._batch_size, recipe.seed, rank=rank, world_size=world_size
        )
        self._train_batches = data.loader(
            data.ImageDataset(train, train_transform(recipe, shown), recipe.seed),
            self._sampler,
            workers=workers,
            lasting=True,
            pin_memory=self.device.startswith("cuda"),
        )
        self._val_count = len(val)
        self._val_batches = data.loader(
            data.ImageDataset(val, shown.pixels, recipe.seed),
            data.batches_in_order(len(val), self._own_batch_size, rank=rank, world_size=world_size),
            workers=workers,
        )
        view = f"{shown.describe()} {shown.mean} {shown.std}"
        self._data_digest = f"{train.digest()} {val.digest()} {view}"

    @property
    def eval_model(self) -> ResNeSt:
        """The network that is validated and saved: with averaged weights if they are averaged."""
        return cast("ResNeSt", self._ema.module) if self._ema else self.network

    def run(self, on_step: OnStep = lambda _: None) -> Iterator[EpochStats]:
        """Train to the end, from wherever the run is; yields each epoch as it ends.

        The caller saves an epoch's results before it asks for the next one: only then is the state
        written from which a later run resumes, so that no results can be missing. Ctrl-C,
        SIGTERM and SIGHUP raise `KeyboardInterrupt` after the step in progress, with the state
        written.
        """
        advice = "reduce `batch_size` or `crop`, or on a GPU use `precision=bf16`"
        with self._stop, disable_tf32():
            self.save()  # from here on the run can be resumed
            try:
                with memory_errors(f"for {self._own_batch_size} images at once", advice):
                    while self.progress.epoch < self.recipe.epochs:
                        yield self._epoch(on_step)
                        self.save()
            except RuntimeError as error:
                if self._stop.requested:  # the same signal may have stopped the workers first
                    raise KeyboardInterrupt from error
                raise

    def _epoch(self, on_step: OnStep) -> EpochStats:
        progress = self.progress
        first_step, start = progress.step, time.monotonic()
        if progress.step < len(self._sampler):
            self._train_steps(on_step)
        images = (progress.step - first_step) * self._batch_size
        rate = images / max(time.monotonic() - start, 1e-9)
        train_loss = self._finite(self._loss.mean())
        val_loss, top1, top5 = self._validate()
        epoch = progress.epoch + 1
        lr = self.recipe.learning_rate(epoch)
        val_loss = self._finite(val_loss)
        stats = EpochStats(epoch, lr, train_loss, val_loss, top1, top5, rate, progress.seconds)
        progress.history.append(stats)
        progress.epoch, progress.step, progress.seconds = epoch, 0, 0.0
        return stats

    def _train_steps(self, on_step: OnStep) -> None:
        """The steps of an epoch that are left, with a state every few minutes."""
        progress, steps = self.progress, len(self._sampler)
        self._sampler.epoch, self._sampler.first = progress.epoch, progress.step
        if progress.step == 0:
            self._loss.restart()
        self.network.train(not self.recipe.freeze_backbone)
        self._dropout.train()
        start = saved = shown = time.monotonic()
        before = progress.seconds
        for batch in data.with_warnings(self._train_batches):
            lr = self._step(batch)
            progress.step += 1
            now = time.monotonic()
            progress.seconds = before + now - start
            if now - shown > _SHOW_EVERY or progress.step == steps:
                place = progress.epoch + 1, self.recipe.epochs, progress.step, steps
                on_step(Step(*place, self._batch_size, self._finite(self._loss.mean()), lr))
                shown = now
            if self.processes.any(self._stop.requested, self.device):
                self.save()
                raise KeyboardInterrupt
            if now - saved > _SAVE_EVERY:
                self.save()
                saved = now

    def _step(self, batch: data.Batch) -> float:
        """One step of the optimizer; returns the learning rate it was made with."""
        recipe, step = self.recipe, self.progress.epoch * len(self._sampler) + self.progress.step
        lr = recipe.learning_rate(step / len(self._sampler))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._dropout.step = step
        seed = mix_seed(recipe.seed, step, 1)  # an image's has two numbers
        labels = batch.targets.to(self.device)
        pixels, targets = self._mixer(self._normalised(batch.pixels), labels, seed)
        with self._autocast:
            if self._teacher:
                targets = self._teacher(pixels)
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
        if self._ema:
            self._ema.update_parameters(self.network)
        self._loss.accumulate(loss)
        return lr

    def _finite(self, loss: float) -> float:
        """A loss; raises `ResNeStError` if training diverged."""
        if math.isfinite(loss):
            return loss
        raise ResNeStError(
            f"the loss is not finite (epoch {self.progress.epoch + 1}, step {self.progress.step}): "
            "training diverged\ntry a lower `lr`, or warmup_epochs or clip_grad in `recipe`"
        )

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Pixels 0 to 255 as float32 on the device, of mean 0 and deviation 1 over ImageNet."""
        moved = pixels.to(self.device, non_blocking=True).to(memory_format=torch.channels_last)
        return moved.float().sub_(self._mean).div_(self._std)

    def _validate(self) -> tuple[float, float, float]:
        """Mean loss, top-1 and top-5 in per cent, over the validation set."""
        network = self.eval_model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.inference_mode(), self._autocast:
            for batch in data.with_warnings(self._val_batches):
                logits = network(self._normalised(batch.pixels)).float().cpu()
                rank = components.ranks(logits, batch.targets)
                loss = F.cross_entropy(logits, batch.targets, reduction="sum")
                sums += torch.stack([loss, (rank < 1).sum(), (rank < 5).sum()]).double()
        if self.processes.world_size > 1:
            sums = self.processes.all_reduce_sum(sums.to(self.device)).cpu()
        loss, top1, top5 = (sums / self._val_count).tolist()
        return loss, 100 * top1, 100 * top5

    def save(self) -> None:
        """Store the state in the state file; `OutputError` if that fails."""
        if self.state_file is None or not self.processes.is_main:
            return
        TrainingState(
            network=self.network.state_dict(),
            averaged=self._ema.state_dict() if self._ema else None,
            optimizer=self._optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            progress=self.progress,
            loss_sum=self._loss.sum,
            recipe=self.recipe.decisive(),
            data_digest=self._data_digest,
        ).write(self.state_file)

    def restore(self) -> None:
        """Resume from the state in the state file; `CheckpointError` if it is of another run."""
        assert self.state_file is not None
        state = TrainingState.read(self.state_file)
        try:
            if (state.recipe, state.data_digest) != (self.recipe.decisive(), self._data_digest):
                raise ValueError
            self.network.load_state_dict(state.network)
            self._optimizer.load_state_dict(state.optimizer)
            if self._ema and state.averaged is not None:
                self._ema.load_state_dict(state.averaged)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the run in '{self.state_file.parent}' was started with other images, classes or "
                "options\nresume with the same, or start from scratch with `overwrite`"
            ) from error
        self._scaler.load_state_dict(state.scaler)
        self.progress = state.progress
        self._loss.restart(state.loss_sum, state.progress.step)
