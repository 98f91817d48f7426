"""The command line's option types: names, help, ranges, completions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnest_cli.bundled import DEMO
from resnest_cli.engines.base import DEVICES
from resnest_cli.variants import VARIANTS, get_variant

# help panels, in the order in which --help shows them
_MODEL, _ANSWER, _OUTPUT, _MACHINE = "Model", "Answer", "Output", "Machine"


def chosen_model(model: str | None, weights: Path | None) -> str | None:
    """The model asked for, here or in the environment; a file may say by itself which it is."""
    return model or (None if weights else os.environ.get("RESNEST_MODEL") or None)


def own_name(model: str | None) -> str | None:
    """A variant's name where timm's is given; `demo` and nothing are themselves."""
    return model if model in (None, DEMO) else get_variant(model).name


def complete_model(incomplete: str) -> list[str]:
    """Model names and aliases that begin with what is typed so far."""
    names = [DEMO, *(name for v in VARIANTS for name in (v.name, v.alias) if name)]
    return [name for name in names if name.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Device names that begin with what is typed so far."""
    return [name for name in DEVICES if name.startswith(incomplete)]


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Variant, by its name or timm's; 'resnest list-models' shows them. demo is the small "
        "one that comes with the package, for ten everyday classes. "
        r"\[default: $RESNEST_MODEL, else resnest50]",
        autocompletion=complete_model,
        rich_help_panel=_MODEL,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Local checkpoint: .pth, .pt, .safetensors, or what 'resnest export' wrote. One that "
        "says which variant, labels and preprocessing it carries needs no other option. "
        r"\[default: the variant's published one]",
        rich_help_panel=_MODEL,
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Class names, one a line, in the order of the classes. "
        r"\[default: the checkpoint's, else ImageNet-1k's]",
        rich_help_panel=_MODEL,
    ),
]
Preprocess = Annotated[
    Literal["default", "hub", "paper", "squash"],
    typer.Option(
        help="default: resize and centre crop as timm does for the variant; hub: 256, 224, "
        "bilinear for all, as PyTorch Hub; paper: crop first, as the authors' evaluation; "
        "squash: squeeze the whole picture into a square, so that nothing at its edges is lost.",
        rich_help_panel=_MODEL,
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Pixels, both sides of what the network sees, 32 to 2048. "
        r"\[default: the network's]",
        rich_help_panel=_MODEL,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Pixels of the short side (squash: of both) that the centre of --crop pixels is cut "
        "out of, to 4096. "
        r"\[default: in the same ratio to --crop as the network's]",
        rich_help_panel=_MODEL,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        "-k",
        metavar="N",
        min=1,
        help="Predictions per picture, 1 to the number of classes. "
        r"\[default: 5, or all where there are fewer]",
        rich_help_panel=_ANSWER,
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        metavar="P",
        min=0.0,
        max=1.0,
        help="Drop predictions of less probability, 0 to 1. A picture may have none left.",
        rich_help_panel=_ANSWER,
    ),
]
NoExif = Annotated[
    bool,
    typer.Option(
        "--no-exif",
        help="Leave pictures as stored; else they are turned the way up that their EXIF says.",
        rich_help_panel=_ANSWER,
    ),
]
NoExifForPublished = Annotated[
    bool,
    typer.Option(
        "--no-exif",
        help="Leave pictures as stored; else they are turned the way up that their EXIF says, but "
        "for published networks (--model without --weights), whose figures are without that.",
        rich_help_panel=_ANSWER,
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        metavar="RRGGBB",
        help="Colour to paint where pictures are transparent, such as ffffff. "
        r"\[default: transparency is dropped, as in the reference implementations]",
        rich_help_panel=_ANSWER,
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Pictures of more pixels are not decoded, but get an error row; a pixel takes some "
        "ten bytes of memory meanwhile, and thirty where colours have 16 bits.",
        rich_help_panel=_MACHINE,
    ),
]
FastJpeg = Annotated[
    bool,
    typer.Option(
        "--fast-jpeg",
        help="Decode large JPEGs at 1/2, 1/4 or 1/8 of their size, where that is still twice what "
        "the network's resize wants: quicker, with answers a little different.",
        rich_help_panel=_MACHINE,
    ),
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private",
        help="Read URLs on this machine and on private networks, too.",
        rich_help_panel=_MACHINE,
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Read more inputs from a file, one a line; - is standard input.",
    ),
]
Format = Annotated[
    Literal["table", "json", "jsonl", "csv", "parquet"] | None,
    typer.Option(
        "--format",
        "-f",
        help=r"How results are written. \[default: by --output's suffix, else table]",
        rich_help_panel=_OUTPUT,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help=r"Where results go. \[default: standard output]",
        rich_help_panel=_OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with an interrupted --output (jsonl, json, csv, parquet); finished rows stay.",
        rich_help_panel=_OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an --output that exists.", rich_help_panel=_OUTPUT),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N, several as cuda:0,1 (to predict), or mps; auto takes cuda, "
        "else mps, else cpu.",
        autocompletion=complete_device,
        rich_help_panel=_MACHINE,
    ),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino", "ncnn"],
    typer.Option(
        help="What runs the network; with pip install 'resnest-cli\\[fast]' auto on a CPU is "
        "openvino, or on AMD's up to Zen 4 ncnn for 200 pictures or more in fp32; else torch. "
        "$RESNEST_ENGINE is auto's default.",
        rich_help_panel=_MACHINE,
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"],
    typer.Option(help="Arithmetic of the network.", rich_help_panel=_MACHINE),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Let torch compile the network (--engine torch), for long runs: it takes a minute "
        "or so first, and needs a C++ compiler on a CPU.",
        rich_help_panel=_MACHINE,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        metavar="N",
        min=1,
        max=4096,
        help="Pictures per step; with --engine torch an incomplete batch takes as long as a full "
        "one. "
        r"\[default: chosen for the machine]",
        rich_help_panel=_MACHINE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        metavar="N",
        min=1,
        max=256,
        help=r"Threads that decode. \[default: chosen for the machine]",
        rich_help_panel=_MACHINE,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Never touch the network; $RESNEST_OFFLINE=1 does the same.",
        rich_help_panel=_MACHINE,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only errors on standard error, no progress.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More on standard error.")]
