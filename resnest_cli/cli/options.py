"""Option types that several commands share: names, help, ranges, completions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from resnest_cli.catalog.demo import DEMO
from resnest_cli.catalog.variants import VARIANTS
from resnest_cli.engines.api import DEVICES, MAX_BATCH_SIZE, MAX_WORKERS
from resnest_cli.errors import UsageError

Name = TypeVar("Name", bound="str | None")

# help panels, in the order in which --help shows them
INPUT, MODEL, RESULTS, OUTPUT, MACHINE = "Input", "Model", "Results", "Output", "Machine"


def option(
    names: str,
    panel: str | None,
    text: str,
    between: tuple[float | None, float | None] = (None, None),
    complete: Callable[[str], list[str]] | None = None,
) -> typer.models.OptionInfo:
    """An option of the command line, such as `--batch-size -b N`, its panel in the help, its help.

    `between` are the least and the greatest value, and `complete` gives those that begin with a
    text.
    """
    words = names.split()
    metavar = None if words[-1].startswith("-") else words.pop()
    made: typer.models.OptionInfo = typer.Option(
        *words,
        metavar=metavar,
        min=between[0],
        max=between[1],
        help=text.replace("[", r"\["),
        rich_help_panel=panel,
        autocompletion=complete,
    )
    return made


def chosen_model(model: str | None, weights: Path | None) -> str | None:
    """The model that was named, or $RESNEST_MODEL; a file may say by itself which it holds."""
    if model or weights:
        return model
    from resnest_cli.catalog.weights import default_model

    return default_model()


def chosen_format(fmt: Name, as_json: bool) -> Name | Literal["json"]:
    """The output format, which `--json` may stand for."""
    if as_json and fmt not in (None, "table", "json"):
        raise UsageError(f"`format={fmt}` and `json` cannot be used together")
    return "json" if as_json else fmt


def colour(text: str | None) -> tuple[int, int, int] | None:
    """RRGGBB as red, green and blue, 0 to 255."""
    if text is None:
        return None
    if not re.fullmatch("#?[0-9a-fA-F]{6}", text):
        raise UsageError(f"`background` must be six hexadecimal digits, RRGGBB, not '{text}'")
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def complete_model(incomplete: str) -> list[str]:
    """Model names and aliases that begin with what is typed so far."""
    names = [DEMO, *(name for v in VARIANTS for name in (v.name, v.alias) if name)]
    return [name for name in names if name.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Device names that begin with what is typed so far."""
    return [name for name in DEVICES if name.startswith(incomplete)]


Model = Annotated[
    str | None,
    option(
        "--model -m NAME",
        MODEL,
        "Model name or timm alias (see list-models), demo (the bundled 10-class model), or a "
        "checkpoint's path. [default: $RESNEST_MODEL, else resnest50]",
        complete=complete_model,
    ),
]
Weights = Annotated[
    Path | None,
    option(
        "--weights FILE",
        MODEL,
        "Local checkpoint: .pth, .pt or .safetensors; or an exported .onnx or .xml (not .pt2). "
        "Checkpoints written by resnest carry labels and preprocessing; for others --model "
        "names the variant. [default: the model's published one]",
    ),
]
LabelsFile = Annotated[
    Path | None,
    option(
        "--labels FILE",
        MODEL,
        "Class names, one a line, in the order of the classes. "
        "[default: the checkpoint's, else ImageNet-1k's]",
    ),
]
Preprocess = Annotated[
    Literal["default", "hub", "paper", "squash"],
    option(
        "--preprocess",
        MODEL,
        "Preprocessing. default: resize and centre crop as in timm; hub: 256, 224, bilinear as "
        "on PyTorch Hub; paper: crop first, as in the authors' evaluation; squash: resize the "
        "whole image to a square.",
    ),
]
Crop = Annotated[
    int | None,
    option("--crop N", MODEL, "Input resolution, N x N pixels, 32 to 2048. [default: the model's]"),
]
Resize = Annotated[
    int | None,
    option(
        "--resize N",
        MODEL,
        "Resize the short side (squash: both sides) to N pixels before the centre crop, --crop "
        "to 4096. [default: in the same ratio to --crop as the model's]",
    ),
]
TopK = Annotated[
    int | None,
    option(
        "--top-k -k N",
        RESULTS,
        "Predictions per image, 1 to the number of classes. [default: 5, or all if fewer]",
        (1, None),
    ),
]
Threshold = Annotated[
    float,
    option(
        "--threshold P",
        RESULTS,
        "Minimum probability, 0 to 1; an image may end up with no prediction.",
        (0.0, 1.0),
    ),
]
NoExif = Annotated[bool, option("--no-exif", INPUT, "Ignore the EXIF orientation of images.")]
Background = Annotated[
    str | None,
    option(
        "--background RRGGBB",
        INPUT,
        "Colour painted where images are transparent, such as ffffff. [default: transparency is "
        "dropped, as in the reference implementations]",
    ),
]
MaxPixels = Annotated[
    int,
    option(
        "--max-pixels N",
        INPUT,
        "Reject images with more than N pixels (about 10 bytes each while decoding, 30 with 16 "
        "bits a colour).",
        (1, None),
    ),
]
FastJpeg = Annotated[
    bool,
    option(
        "--fast-jpeg",
        INPUT,
        "Decode large JPEGs at 1/2, 1/4 or 1/8 of their size, where that is still twice what the "
        "resize needs: faster, with slightly different results.",
    ),
]
Stretch = Annotated[
    bool,
    option(
        "--stretch",
        INPUT,
        "Scale each image of more than 8 bits a sample from its darkest to its brightest sample, "
        "as for thermal and microscope images, which use a small part of their range.",
    ),
]
AllowPrivate = Annotated[
    bool,
    option("--allow-private", INPUT, "Also read URLs on this machine and on private networks."),
]
FilesFrom = Annotated[
    str | None,
    option(
        "--files-from FILE",
        INPUT,
        "Read further inputs from a file, one a line; - is standard input.",
    ),
]
Null = Annotated[
    bool,
    option(
        "--null",
        INPUT,
        "The names in --files-from end with a NUL character, as find -print0 writes them.",
    ),
]
Include = Annotated[
    list[str] | None,
    option(
        "--include GLOB",
        INPUT,
        "Take only files of folders that match, such as '*.png' or 'site1/*'; repeatable.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    option("--exclude GLOB", INPUT, "Leave out files of folders that match; repeatable."),
]
Limit = Annotated[
    int | None, option("--limit N", INPUT, "Take only the first N images.", (1, None))
]
Format = Annotated[
    Literal["table", "json", "jsonl", "csv", "tsv", "parquet"] | None,
    option("--format -f", OUTPUT, "Output format. [default: by --output's suffix, else table]"),
]
TableFormat = Annotated[Literal["table", "json"], option("--format -f", OUTPUT, "Output format.")]
Json = Annotated[bool, option("--json", OUTPUT, "The same as --format json.")]
Output = Annotated[
    str | None,  # a slash at the end counts
    option(
        "--output -o FILE",
        OUTPUT,
        "Write results to FILE: .jsonl, .json, .csv, .tsv, .parquet or .txt; or, with a slash at "
        "its end, in partitions to a folder, which may lie in an object store. [default: standard "
        "output]",
    ),
]
PartitionSize = Annotated[
    int | None,
    option(
        "--partition-size N",
        OUTPUT,
        "Images of a partition, if --output is a folder, up to 1,000,000. [default: 10,000]",
        (1, 1_000_000),
    ),
]
On = Annotated[
    str | None,
    option(
        "--on CLUSTER",
        MACHINE,
        "Run on a Ray cluster: ray for that of $RAY_ADDRESS, or a new one on this machine; or "
        "ray://HOST:PORT.",
    ),
]
Shard = Annotated[
    str | None,
    option(
        "--shard K/N",
        OUTPUT,
        "If --output is a folder, make every N-th partition from the K-th on; auto takes both from "
        "SLURM's, torchrun's or, as auto/N, Kubernetes' variables.",
    ),
]
RetryFailed = Annotated[
    bool,
    option(
        "--retry-failed",
        OUTPUT,
        "If --output is a folder, also compute the failed rows of finished partitions again.",
    ),
]
Resume = Annotated[
    bool,
    option(
        "--resume",
        OUTPUT,
        "Continue an interrupted --output (jsonl, json, csv, tsv, parquet); finished rows are "
        "kept.",
    ),
]
Overwrite = Annotated[bool, option("--overwrite", OUTPUT, "Replace an --output that exists.")]
CSVBom = Annotated[
    bool,
    option(
        "--csv-bom",
        OUTPUT,
        "Begin CSV and TSV with a byte order mark, by which Excel recognises UTF-8.",
    ),
]
CSVSafe = Annotated[
    bool,
    option(
        "--csv-safe",
        OUTPUT,
        "In CSV and TSV write an apostrophe before text that spreadsheets take for a formula: "
        "text that begins with =, +, -, @, a tab or a carriage return.",
    ),
]
Device = Annotated[
    str,
    option(
        "--device NAME",
        MACHINE,
        "auto, cpu, cuda, cuda:N, several as cuda:0,1, or mps; auto uses CUDA if available, else "
        "mps, else cpu.",
        complete=complete_device,
    ),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino"],
    option(
        "--engine",
        MACHINE,
        "Backend; auto is torch on a GPU, and on a CPU openvino if installed (pip install "
        "'resnest-cli[fast]'), else torch. $RESNEST_ENGINE is auto's default.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"],
    option("--precision", MACHINE, "Numeric precision of the network."),
]
Compile = Annotated[
    bool,
    option(
        "--compile",
        MACHINE,
        "Compile the network with torch.compile (engine torch), for long runs: takes about a "
        "minute first, and on a CPU needs a C++ compiler.",
    ),
]
BatchSize = Annotated[
    int | None,
    option(
        "--batch-size -b N",
        MACHINE,
        "Images per step. [default: chosen for the machine]",
        (1, MAX_BATCH_SIZE),
    ),
]
Workers = Annotated[
    int | None,
    option(
        "--workers -j N",
        MACHINE,
        "Decoding threads. [default: chosen for the machine]",
        (1, MAX_WORKERS),
    ),
]
Offline = Annotated[
    bool,
    option("--offline", MACHINE, "Never touch the network; the same as $RESNEST_OFFLINE=1."),
]
Quiet = Annotated[bool, option("--quiet -q", None, "Show errors only, and no progress.")]
Verbose = Annotated[bool, option("--verbose -v", None, "Show more on standard error.")]
