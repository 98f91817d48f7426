"""`resnest predict`: names for pictures."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnest_cli import __version__, sources
from resnest_cli.commands import options
from resnest_cli.decoding import MAX_PIXELS
from resnest_cli.engines.base import MANY
from resnest_cli.errors import ResNeStError, UsageError
from resnest_cli.terminal import (
    SUMMARY,
    DownloadBar,
    picture_bar,
    set_verbosity,
    stderr_is_terminal,
)
from resnest_cli.writers import format_of

if TYPE_CHECKING:
    from resnest_cli.classifier import Classifier
    from resnest_cli.output import Output

log = logging.getLogger(__name__)


_FEW = 20  # pictures, that are done sooner than a network is compiled


@dataclass(frozen=True)
class Inputs:
    """What was named on the command line, and how to walk it (again)."""

    named: tuple[str, ...]
    files_from: str | None

    def __post_init__(self) -> None:
        if not self.named and self.files_from is None:
            raise UsageError("nothing to classify; name pictures, folders, globs, URLs or -")
        if (*self.named, self.files_from).count(sources.STDIN) > 1:
            raise UsageError("standard input holds one picture or one list: give - only once")

    def check(self) -> None:
        """Raise `ResNeStError`, before anything is loaded or written, if there is no picture."""
        if self.files_from and not os.path.isfile(self.files_from):
            if self.files_from != sources.STDIN and not os.path.exists(self.files_from):
                raise UsageError(f"there is no list '{self.files_from}'")
            return  # a pipe can be read only once
        reason = "the list of inputs is empty"
        for source in self.sources():
            if not source.empty:
                return
            reason = f"{source.error}: '{source.name}'"
        raise ResNeStError(f"nothing to classify: {reason}")

    def sources(self) -> Iterator[sources.Source]:
        """The pictures, lazily."""
        yield from sources.expand(self.named)
        for name in sources.read_list(self.files_from) if self.files_from else ():
            if name == sources.STDIN:
                yield sources.Source(name, error="standard input cannot be named in a list")
            else:
                yield from sources.expand([name])

    def count(self) -> int | None:
        """How many pictures there are; None where only reading on would tell."""
        if self.files_from and not os.path.isfile(self.files_from):
            return None
        return sum(1 for _ in self.sources())

    def count_to(self, limit: int) -> int:
        """How many there are, or the limit where there are more; a pipe is taken to hold more."""
        if self.files_from and not os.path.isfile(self.files_from):
            return limit
        return sum(1 for _ in islice(self.sources(), limit))

    def is_one_picture(self) -> bool:
        """Whether there is no more than one to wait for."""
        return len(self.named) == 1 and not self.files_from and os.path.isfile(self.named[0])


@dataclass
class Tally:
    """What a run came to."""

    done: int = 0
    failed: int = 0


def predict(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Picture files, folders (walked recursively), quoted globs, http(s) URLs, or - "
            "for one picture on standard input; any number, mixed.",
            show_default=False,
        ),
    ] = None,
    files_from: options.FilesFrom = None,
    model: options.Model = None,
    weights: options.Weights = None,
    labels: options.LabelsFile = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = 0.0,
    no_exif: options.NoExif = False,
    background: options.Background = None,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    fast_jpeg: options.FastJpeg = False,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    compiled: options.Compile = False,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    fmt: options.Format = None,
    output: options.Output = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    offline: options.Offline = False,
    allow_private: options.AllowPrivate = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Name what pictures show.

    Results go to standard output or --output; progress and the summary to standard error.
    Exit codes: 0 all done, 1 nothing could be done, 2 wrong command line, 3 some inputs failed
    (each has its row), 130 interrupted.

    Examples:

      resnest predict dog.jpg

      resnest predict photos/ 'more/**/*.png' -o results.csv

      resnest predict photos/ -o results.jsonl --resume

      find . -name '*.jpg' | resnest predict --files-from - -f jsonl

      curl -s https://example.org/cat.jpg | resnest predict -

      resnest predict dog.jpg --weights best.safetensors --top-k 3
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    wanted = Inputs(tuple(inputs or ()), files_from)
    wanted.check()
    output = None if output == Path("-") else output
    chosen = _chosen_format(fmt, output, resume=resume, overwrite=overwrite)
    name = options.chosen_model(model, weights)
    count = wanted.count_to(MANY)
    with DownloadBar(name or "resnest50") as bar, _no_garbage_collection():
        from resnest_cli.classifier import Classifier

        classifier = Classifier(
            name, weights=weights, labels=labels, preprocess=preprocess, crop=crop,
            resize=resize, top_k=top_k, threshold=threshold, exif=not no_exif,
            background=_colour(background), max_pixels=max_pixels, fast_jpeg=fast_jpeg,
            device=device, engine=engine, precision=precision, compiled=compiled,
            batch_size=batch_size, workers=workers, offline=offline, allow_private=allow_private,
            answer_first=output is None and count <= _FEW, many=count >= MANY,
            on_progress=bar if stderr_is_terminal() and not quiet else None,
        )  # fmt: skip
    from resnest_cli.output import open_output

    with open_output(
        output,
        fmt=chosen,
        top_k=classifier.top_k,
        settings=_settings(classifier) if output and chosen != "table" else {},
        foot=classifier.describe(),
        resume=resume,
    ) as results:
        return _run(classifier, wanted, results, output, quiet=quiet)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Importing torch makes a great many objects and no garbage: looking for it costs a fifth."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor are those objects looked through later on
        gc.enable()


def _run(
    classifier: Classifier, inputs: Inputs, output: Output, path: Path | None, *, quiet: bool
) -> int:
    """Classify what is left to do; the exit code."""
    tally = Tally(output.finished, output.failed)
    start = time.monotonic()
    to_terminal = path is None and sys.stdout.isatty()
    show = stderr_is_terminal() and not (quiet or to_terminal or inputs.is_one_picture())
    bar = picture_bar(inputs.count, tally.done) if show else nullcontext(lambda: None)
    try:
        with bar as advance:
            left = output.remaining(inputs.sources())
            for result in classifier.stream(left, continued=output.finished > 0):
                output.write(result)
                tally.done += 1
                tally.failed += result.error is not None
                advance()
        output.finish()
    except KeyboardInterrupt:
        kept = ", which are kept: --resume goes on" if path and output.resumable else ""
        log.warning("interrupted after %s%s", _pictures(tally.done), kept)
        raise
    if not tally.done:
        raise ResNeStError("nothing to classify: the list of inputs is empty")
    if not quiet and (tally.done > 1 or tally.failed):
        log.log(SUMMARY, _summary(tally, tally.done - output.finished, time.monotonic() - start))
    with suppress(KeyboardInterrupt):  # the answers are there already
        classifier.compile()
    return 3 if tally.failed else 0


def _summary(tally: Tally, now: int, seconds: float) -> str:
    rate = f"{now / seconds:.1f}/s" if seconds else ""
    text = f"{_pictures(now)} in {seconds:.1f} s ({rate})"
    if tally.done > now:
        text += f", {tally.done:,} with the earlier run's"
    if tally.failed:
        text += f"; {tally.failed:,} failed: their rows say why"
    return text


def _pictures(count: int) -> str:
    return f"{count:,} picture{'' if count == 1 else 's'}"


def _chosen_format(fmt: str | None, output: Path | None, *, resume: bool, overwrite: bool) -> str:
    chosen = fmt or (format_of(output.suffix) if output else "table")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if output is None:
        if resume or overwrite:
            raise UsageError("--resume and --overwrite need an --output")
        if chosen == "parquet" and sys.stdout.isatty():
            raise UsageError("Parquet is not for a terminal; add --output FILE")
    if output or chosen == "parquet":
        from resnest_cli.output import check_target

        check_target(output, fmt=chosen, resume=resume, overwrite=overwrite)
    return chosen


def _colour(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    if not re.fullmatch("#?[0-9a-fA-F]{6}", text):
        raise UsageError(f"a background is six hex digits, RRGGBB, not '{text}'")
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _settings(classifier: Classifier) -> dict[str, Any]:
    """What decides the rows, and what else is good to know of a run."""
    from resnest_cli.checkpoints import digest

    c = classifier
    return {
        "tool": f"resnest {__version__}",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "engine": c.engine.name,
        "device": c.engine.device,
        "settings": {
            "model": c.card.name,
            "weights_sha256": digest(c.engine.weights),
            "preprocessing": json.loads(json.dumps(c.preprocessing.as_dict())),
            "precision": c.engine.precision,
            "labels_sha256": hashlib.sha256("\n".join(c.labels.names).encode()).hexdigest(),
            "top_k": c.top_k,
            "threshold": c.threshold,
            "exif": c.decoding.exif,
            "max_pixels": c.decoding.max_pixels,
            "fast_jpeg": c.decoding.shrink_to is not None,
            "background": c.decoding.background and list(c.decoding.background),
        },
    }
