"""The models, and where their weights are: local, bundled, or published and downloaded.

A published file counts as present if it is in the cache folder under its published name with the
published digest, whoever put it there. Its whole SHA-256 is recorded beside it, in the format of
`sha256sum`, and a file that has not changed since is not read again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from resnest_cli import hashing, settings
from resnest_cli.catalog import demo
from resnest_cli.catalog.foreign import check_kind
from resnest_cli.catalog.variants import BY_NAME, Variant, get_variant, list_models
from resnest_cli.errors import CheckpointError, DownloadError, UsageError
from resnest_cli.files import check_regular
from resnest_cli.net.download import Download
from resnest_cli.net.http import OnBytes

log = logging.getLogger(__name__)

AUTHORS_URL = "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/"
TIMM_URL = "https://github.com/huggingface/pytorch-image-models/releases/download/"
HUB_URL = "https://huggingface.co/timm/"
_RECORD = rb"[0-9a-f]{64}  [^\n]*\n?"  # in the format of sha256sum
_SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx", ".xml", ".ckpt", ".bin", ".tar", ".pt2")


@dataclass(frozen=True)
class ModelInfo:
    """A model's size, cost, preprocessing and published accuracy; None: unknown."""

    name: str
    alias: str | None  # timm's name
    params: int
    gmacs: float  # 1e9 multiply-accumulates for one image of `crop` x `crop` pixels
    crop: int  # pixels
    resize: int  # pixels
    interpolation: str
    top1: float | None  # per cent on ImageNet-1k's validation set
    top5: float | None
    bytes: int | None  # size of the checkpoint
    cached: bool  # whether the checkpoint is on disk


@dataclass(frozen=True)
class Weights:
    """The file that holds a network, resolved once and passed on."""

    path: Path
    model: str | None = None  # a variant's canonical name or `demo`, where one was named
    published: bool = False  # whether the file is that model's own; others may say what they hold

    @property
    def is_graph(self) -> bool:
        """Whether it holds an exported graph, which can only be run."""
        return is_graph(self.path)

    @property
    def label(self) -> str:
        """Its name in messages: the model's, or the file's."""
        return self.model if self.published and self.model else self.path.name

    @cached_property
    def sha256(self) -> str:
        """Its SHA-256 in hex digits; for an OpenVINO graph, of its two files' digests."""
        if self.path.suffix == ".xml":
            files = (self.path, self.path.with_suffix(".bin"))
            return hashlib.sha256("".join(map(hashing.file_sha256, files)).encode()).hexdigest()
        ours = self.path.parent == settings.checkpoints_folder()  # elsewhere anyone may write it
        return (ours and _recorded(self.path)) or hashing.file_sha256(self.path)


def model_infos(pattern: str = "*") -> list[ModelInfo]:
    """The models that `list_models` names, with their figures."""
    return [_info(name) for name in list_models(pattern)]


def _info(name: str) -> ModelInfo:
    if name == demo.DEMO:
        size = demo.demo_checkpoint().stat().st_size
        return ModelInfo(name, None, 2_846_490, 0.16, 96, 98, "bicubic", None, None, size, True)
    v = get_variant(name)
    view, cached = v.preprocessing, cached_path(v) is not None
    figures = v.params, v.gmacs, view.crop, view.resize, view.interpolation, v.top1, v.top5
    return ModelInfo(v.name, v.alias, *figures, v.size, cached)


def resolve(
    model: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> Weights:
    """The file that holds a model's weights; a published one is downloaded if it is missing.

    `model` may also be a checkpoint's path; beside `weights` it names the variant that those hold.

    Raises:
        CheckpointError: the file is missing and cannot be downloaded, or is damaged.
        UsageError: no model has that name, or `model` and `weights` exclude each other.
    """
    if model is not None and is_path(model):
        if weights is not None:
            raise UsageError(f"`model` names a file, '{model}': leave out `weights`")
        model, weights = None, model
    if weights is not None:
        if model == demo.DEMO:
            raise UsageError("`model=demo` is the bundled checkpoint: leave out `weights`")
        name = get_variant(model).name if model else None
        return Weights(_existing(Path(weights)), name)
    if model == demo.DEMO:
        return Weights(demo.demo_checkpoint(), demo.DEMO, published=True)
    variant = get_variant(model or settings.DEFAULT_MODEL)
    path = ensure_downloaded(variant, offline=offline, on_bytes=on_bytes)
    return Weights(path, variant.name, published=True)


def is_graph(path: Path) -> bool:
    """Whether a file is an exported graph, which OpenVINO alone runs."""
    return path.suffix in (".onnx", ".xml")


def is_path(model: str) -> bool:
    """Whether a model is named by a checkpoint's path: it has a folder or a suffix, or exists."""
    path = Path(model)
    if model == demo.DEMO or model in BY_NAME:
        return False
    return len(path.parts) > 1 or path.suffix.lower() in _SUFFIXES or path.exists()


def downloads(variant: Variant) -> Iterator[Download]:
    """A variant's published files, the one with a published digest first."""
    folder, name, alias = settings.checkpoints_folder(), variant.file_name, variant.alias
    gluon = name.startswith("gluon_")
    mirror = settings.mirror()
    bases = [mirror] if mirror else []
    if not gluon:
        bases.append(AUTHORS_URL)
    if alias:
        bases.append(TIMM_URL + ("v0.1-weights/" if gluon else "v0.1-resnest/"))
    yield Download([base + name for base in bases], folder / name, variant.digest)
    if alias:
        repository = f"{alias}.gluon_in1k" if gluon else f"{alias}.in1k"
        url = f"{HUB_URL}{repository}/resolve/main/model.safetensors"
        yield Download([url], folder / f"{repository}.safetensors", None)


def cached_path(variant: Variant) -> Path | None:
    """A variant's file in the cache folder, not yet verified; None if it is missing."""
    return next((d.target for d in downloads(variant) if d.target.is_file()), None)


def default_model() -> str | None:
    """The model that $RESNEST_MODEL names; `UsageError` if there is none of that name."""
    named = settings.model()
    if named and named != demo.DEMO:
        try:
            if not is_path(named):
                get_variant(named)
            elif not Path(named).is_file():
                raise UsageError(f"'{named}' is not a file")
        except UsageError as error:
            raise UsageError(f"$RESNEST_MODEL: {error}") from error
    return named


def ensure_downloaded(
    variant: Variant, *, offline: bool = False, on_bytes: OnBytes | None = None
) -> Path:
    """A variant's verified file, downloaded if it is missing; else `CheckpointError`."""
    for download in downloads(variant):
        _check_usable(download.target)
        if download.target.is_file():
            if download.sha256:
                _verify(download.target, download.sha256)
            return download.target
    if offline or settings.offline():
        raise CheckpointError(
            f"{variant.name} is not on disk, and downloads are off (`offline` or $RESNEST_OFFLINE)"
            f"\n{_by_hand(variant)}"
        )
    return _download(variant, on_bytes)


def _existing(path: Path) -> Path:
    if path.is_dir():
        held = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        hint = f"name a checkpoint in it, such as '{held[0]}'" if held else "it holds no checkpoint"
        raise CheckpointError(f"'{path}' is a folder, not a model\n{hint}")
    if not path.is_file():
        reason = "not a regular file" if path.exists() else "No such file or directory"
        raise CheckpointError(f"cannot read '{path}': {reason}")
    graph_weights = path.with_suffix(".bin") if path.suffix == ".xml" else path
    if not graph_weights.is_file():
        raise CheckpointError(
            f"the weights of '{path}' are missing: put '{graph_weights.name}' beside it"
        )
    try:
        for file in {path, graph_weights}:
            check_kind(file)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error
    return path


def _download(variant: Variant, on_bytes: OnBytes | None) -> Path:
    from filelock import FileLock  # slow to import

    reasons = []
    try:
        settings.checkpoints_folder().mkdir(parents=True, exist_ok=True)
        for download in downloads(variant):
            target = download.target
            with FileLock(target.with_name(target.name + ".lock")):
                if target.is_file():  # another process was faster
                    return target
                try:
                    log.info("downloading %s", target.name)
                    _record(target, download.run(on_bytes))
                    return target
                except DownloadError as error:
                    reasons.append(str(error))
    except OSError as error:
        raise CheckpointError(
            f"the cache folder '{settings.home()}' cannot be used: {error.strerror or error}"
            "\nset $RESNEST_HOME to a writable folder"
        ) from error
    raise DownloadError(
        f"{variant.name} could not be downloaded: {'; '.join(reasons)}\n{_by_hand(variant)}"
    )


def _check_usable(path: Path) -> None:
    try:
        check_regular(path)
    except OSError as error:
        raise CheckpointError(f"cannot use '{path}': {error.strerror}\nremove it") from error


def _by_hand(variant: Variant) -> str:
    return (
        f"put {variant.file_name} into '{settings.checkpoints_folder()}', "
        "set $RESNEST_MIRROR to a mirror, or use a local checkpoint with `weights=FILE`; "
        "`model=demo` needs no download (ten everyday classes)"
    )


def _verify(path: Path, sha256: str) -> None:
    """Raise `CheckpointError` if a file is not the published one."""
    try:
        found = _recorded(path) or ""
        if not found.startswith(sha256):
            found = hashing.sha256_of(path)
            if found.startswith(sha256):
                _record(path, found)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error
    if not found.startswith(sha256):
        raise CheckpointError(
            f"'{path}' is damaged or another file: its SHA-256 is {found[:8]}..., "
            f"not {sha256}...\nremove it, then run 'resnest download'"
        )


def _recorded(path: Path) -> str | None:
    """The digest recorded beside a file, unless the file may have changed since."""
    record, status = path.with_name(f"{path.name}.sha256"), path.stat()
    if not record.is_file() or record.stat().st_mtime_ns < max(
        status.st_mtime_ns, status.st_ctime_ns
    ):
        return None
    text = record.read_bytes()[:64].decode("ascii", "replace")
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _record(path: Path, sha256: str) -> None:
    record = path.with_name(f"{path.name}.sha256")
    try:
        check_regular(record)
        if record.exists() and not re.fullmatch(_RECORD, record.read_bytes()[:512]):
            raise OSError(f"'{record}' was not written by resnest")
        record.write_text(f"{sha256}  {path.name}\n", encoding="ascii")
    except OSError as error:  # a read-only cache works too; its files are verified each time
        log.info("the digest of %s cannot be recorded: %s", path.name, error)
