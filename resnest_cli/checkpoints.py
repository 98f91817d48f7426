"""Where a variant's published checkpoint is: on disk, or at one of its addresses.

A file counts as there once it stands under its published name with the published digest, however
it came to be there. The whole SHA-256 is kept beside it, in the format of `sha256sum`, and a file
that did not change since is not read through again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resnest_cli import bundled, cache, digests
from resnest_cli.errors import CheckpointError, DownloadError, UsageError
from resnest_cli.fetch import Download, Progress, sha256_of
from resnest_cli.variants import Variant, get_variant

log = logging.getLogger(__name__)

_AUTHORS = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/"
_HUB = "https://huggingface.co/timm/"


@dataclass(frozen=True)
class Remote:
    """One file that holds a variant's published weights, and where it is served."""

    file_name: str
    urls: tuple[str, ...]
    sha256: str | None  # first hex digits, where published


def remotes(variant: Variant) -> Iterator[Remote]:
    """The files that hold a variant's weights, the one with a published digest first."""
    mirror = os.environ.get("RESNEST_MIRROR")
    own = (f"{mirror.rstrip('/')}/",) if mirror else ()
    gluon = variant.file_name.startswith("gluon_")
    if gluon:
        places: tuple[str, ...] = (f"{_TIMM}v0.1-weights/",)
    elif variant.alias:
        places = (_AUTHORS, f"{_TIMM}v0.1-resnest/")
    else:
        places = (_AUTHORS,)
    name = variant.file_name
    yield Remote(name, tuple(p + name for p in (*own, *places)), variant.digest)
    if variant.alias:
        tag = "gluon_in1k" if gluon else "in1k"
        url = f"{_HUB}{variant.alias}.{tag}/resolve/main/model.safetensors"
        yield Remote(f"{variant.alias}.{tag}.safetensors", (url,), None)


def find(variant: Variant) -> Path | None:
    """A variant's file in the cache folder, not yet verified; None where there is none."""
    folder = cache.checkpoints_folder()
    candidates = (folder / remote.file_name for remote in remotes(variant))
    return next((path for path in candidates if path.is_file()), None)


def obtain(variant: Variant, *, offline: bool = False, on_progress: Progress | None = None) -> Path:
    """A variant's verified file, downloaded where it is not there yet.

    Raises:
        CheckpointError: it is not there and cannot be had, or is damaged.
    """
    for remote in remotes(variant):
        path = cache.checkpoints_folder() / remote.file_name
        if path.is_file():
            if remote.sha256:
                _verify(path, remote.sha256)
            return path
    if offline or cache.offline():
        raise CheckpointError(
            f"{variant.name} is not on disk and the network is off (--offline or $RESNEST_OFFLINE)"
            f"\n{_by_hand(variant)}"
        )
    return _download(variant, on_progress)


def locate(
    model: str | None,
    weights: Path | None,
    *,
    offline: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """The file that holds the weights of a model, or of a local checkpoint.

    Raises:
        CheckpointError: it is not there and cannot be had.
        UsageError: there is no such model, or both are given where only one can be.
    """
    if model == bundled.DEMO:
        if weights is not None:
            raise UsageError("demo is the bundled network: give --model demo or --weights FILE")
        return bundled.demo_checkpoint()
    if weights is not None:
        if not weights.is_file():
            reason = "is no regular file" if weights.exists() else "No such file or directory"
            raise CheckpointError(f"cannot read '{weights}': {reason}")
        if weights.suffix == ".xml" and not weights.with_suffix(".bin").is_file():
            raise CheckpointError(
                f"the weights of '{weights}' are missing: put '{weights.stem}.bin' beside it"
            )
        return weights
    return obtain(get_variant(model or "resnest50"), offline=offline, on_progress=on_progress)


def digest(path: Path) -> str:
    """A checkpoint's whole SHA-256: the one kept beside it, else computed.

    For an OpenVINO graph it is that of the digests of its two files.
    """
    if path.suffix == ".xml":
        both = digests.of(path) + digests.of(path.with_suffix(".bin"))
        return hashlib.sha256(both.encode()).hexdigest()
    ours = path.parent == cache.checkpoints_folder()  # elsewhere anybody may have written it
    if ours and _recorded(path, ""):
        text = _record_path(path).read_bytes()[:64].decode("ascii", "replace")
        if re.fullmatch("[0-9a-f]{64}", text):
            return text
    return digests.of(path)


def _download(variant: Variant, on_progress: Progress | None) -> Path:
    from filelock import FileLock

    reasons = []
    try:
        cache.checkpoints_folder().mkdir(parents=True, exist_ok=True)
        for remote in remotes(variant):
            target = cache.checkpoints_folder() / remote.file_name
            with FileLock(target.with_name(target.name + ".lock")):
                if target.is_file():  # another process was faster
                    return target
                try:
                    log.info("fetching %s", remote.file_name)
                    download = Download(remote.urls, target, remote.sha256, on_progress)
                    _record(target, download.run())
                    return target
                except DownloadError as error:
                    reasons.append(str(error))
    except OSError as error:
        raise CheckpointError(
            f"the cache folder '{cache.home()}' cannot be used: {error.strerror or error}"
            "\nset $RESNEST_HOME to a folder that can be written"
        ) from error
    raise DownloadError(
        f"{variant.name} could not be downloaded: {'; '.join(reasons)}\n{_by_hand(variant)}"
    )


def _by_hand(variant: Variant) -> str:
    return (
        f"put {variant.file_name} into '{cache.checkpoints_folder()}', "
        "name a mirror in $RESNEST_MIRROR, or use a local checkpoint with --weights FILE; "
        "--model demo works at once, for ten everyday classes"
    )


def _verify(path: Path, sha256: str) -> None:
    """Raise `CheckpointError` if a file is not the published one."""
    try:
        if _recorded(path, sha256):
            return
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error
    if not found.startswith(sha256):
        raise CheckpointError(
            f"'{path}' is damaged or another file: its SHA-256 is {found[:8]}..., "
            f"not {sha256}...\nremove it and run 'resnest download' again"
        )
    _record(path, found)


def _recorded(path: Path, sha256: str) -> bool:
    """Whether the digest kept beside a file is the right one, and newer than the file."""
    record, status = _record_path(path), path.stat()
    if not record.is_file() or record.stat().st_mtime_ns < max(
        status.st_mtime_ns, status.st_ctime_ns
    ):
        return False
    return record.read_bytes().startswith(sha256.encode())


def _record(path: Path, digest: str) -> None:
    try:
        _record_path(path).write_text(f"{digest}  {path.name}\n", encoding="ascii")
    except OSError as error:  # a read-only cache works too, it only gets verified each time
        log.info("the digest of %s could not be kept: %s", path.name, error)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
