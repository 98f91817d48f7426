"""The option types of `resnest train`, named as the fields of `training.recipe.Recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_NETWORK, _DATA, _RECIPE, _OUTPUT, _MACHINE = "Network", "Data", "Recipe", "Output", "Machine"


def _number(
    text: str, panel: str = _RECIPE, *names: str, metavar: str = "X"
) -> typer.models.OptionInfo:
    info: typer.models.OptionInfo = typer.Option(
        *names, metavar=metavar, help=text, rich_help_panel=panel, show_default=False
    )
    return info


Scratch = Annotated[
    bool,
    typer.Option(
        "--scratch",
        help="Begin with random weights instead of learned ones.",
        rich_help_panel=_NETWORK,
    ),
]
Width = Annotated[
    float | None,
    _number(
        "With --scratch: factor on every channel count of the variant, 0.05 to 8. "
        r"\[default: 1]",
        _NETWORK,
    ),
]
Blocks = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,N,N",
        help="Bottlenecks in each of the four stages, 1 to 99, such as 2,2,2,2. Of learned weights "
        "at least as many as they have: further ones begin as their shortcuts, so that at first "
        r"the answers are the same. \[default: the model's]",
        rich_help_panel=_NETWORK,
        show_default=False,
    ),
]
Crop = Annotated[
    int | None,
    _number(
        r"Pixels, both sides of what the network sees, 32 to 2048. \[default: the model's]",
        _NETWORK,
        metavar="N",
    ),
]
Resize = Annotated[
    int | None,
    _number(
        "Pixels of the short side before the centre is cut out. "
        r"\[default: in the same ratio to --crop as the model's]",
        _NETWORK,
        metavar="N",
    ),
]
Interpolation = Annotated[
    Literal["bilinear", "bicubic"] | None,
    typer.Option(
        help=r"How the network's pictures are resized. \[default: the model's]",
        rich_help_panel=_NETWORK,
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the network calls itself in answers. "
        r"\[default: the model's, with -w or -b where --width or --blocks change it]",
        rich_help_panel=_NETWORK,
    ),
]
Val = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Class folders to validate on. "
        r"\[default: val/ or test/ beside DATA/train, else a part of DATA]",
        rich_help_panel=_DATA,
    ),
]
ValShare = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        min=0.001,
        max=0.9,
        help="Share of each class that is held out for validation where there is no folder for it. "
        r"\[default: 0.1]",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Don't decode every picture once before the first step to leave out broken ones.",
        rich_help_panel=_DATA,
    ),
]
Teacher = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="A checkpoint that knows the classes; what is learned are its answers in place of "
        "the folders' names (distillation). Several: the mean of theirs.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Epochs = Annotated[
    int | None,
    _number(r"Times that every picture is seen. \[default: 20, with --scratch 100]", metavar="N"),
]
BatchSize = Annotated[
    int | None,
    _number(
        r"Pictures per step, over all processes. \[default: 64, fewer for few pictures]",
        _RECIPE,
        "--batch-size",
        "-b",
        metavar="N",
    ),
]
Lr = Annotated[
    float | None,
    _number(
        "Peak learning rate at 256 pictures per step; scaled in proportion to --batch-size. "
        r"\[default: 0.04, with --scratch 0.1]"
    ),
]
Momentum = Annotated[float | None, _number(r"Nesterov momentum. \[default: 0.9]")]
WeightDecay = Annotated[
    float | None, _number(r"Of all but biases and batch norms. \[default: 0.0001]")
]
WarmupEpochs = Annotated[
    float | None,
    _number(
        "Epochs of linear rise before the cosine falls. "
        r"\[default: 1, with --scratch 5; at most a fifth of --epochs]"
    ),
]
LabelSmoothing = Annotated[float | None, _number(r"0 to 0.9. \[default: 0.1, with --teacher 0]")]
Mixup = Annotated[
    float | None,
    _number(r"Alpha of mixup; 0: none. \[default: 0, with --scratch 0.2]"),
]
Cutmix = Annotated[
    float | None,
    _number(r"Alpha of CutMix; with --mixup, each step draws one of the two. \[default: 0]"),
]
Augment = Annotated[
    Literal["none", "light", "randaugment", "autoaugment", "trivial"] | None,
    typer.Option(
        help="How pictures are changed; light is cut-outs and mirroring. "
        r"\[default: light, with --scratch autoaugment]",
        rich_help_panel=_RECIPE,
        show_default=False,
    ),
]
MinScale = Annotated[
    float | None,
    _number(r"Least share of the area that is cut out. \[default: 0.35, with --scratch 0.08]"),
]
MaxScale = Annotated[
    float | None,
    _number(r"Greatest share; above 1 pictures go on as in a mirror. \[default: 1]"),
]
Resampling = Annotated[
    bool | None,
    typer.Option(
        "--resampling",
        help="Cut out with any interpolation, at times blurred or sharpened: for networks that "
        "learn from small pictures and are to take large ones.",
        rich_help_panel=_RECIPE,
        show_default=False,
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help=r"Mirror half of the pictures, left to right. \[default: flip]",
        rich_help_panel=_RECIPE,
        show_default=False,
    ),
]
Dropout = Annotated[float | None, _number(r"Share of the pooled features. \[default: 0.2]")]
Ema = Annotated[
    float | None,
    _number("Decay per step of averaged weights, which are then what is kept, such as 0.999; "
            r"0: no averaging. \[default: 0]"),
]  # fmt: skip
ClipGrad = Annotated[float | None, _number(r"Greatest norm of the gradient; 0: any. \[default: 0]")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(
        help="Of the multiplications (autocast); fp32 lets NVIDIA's GPUs convolve in TF32. "
        r"\[default: fp32]",
        rich_help_panel=_RECIPE,
        show_default=False,
    ),
]
Freeze = Annotated[
    bool | None,
    typer.Option(
        "--freeze",
        help="Train the last layer only.",
        rich_help_panel=_RECIPE,
        show_default=False,
    ),
]
Balance = Annotated[
    bool | None,
    typer.Option(
        "--balance",
        help="Weigh classes by the inverse of their number of pictures.",
        rich_help_panel=_RECIPE,
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    _number(r"Of everything random; the same seed gives the same run. \[default: 0]", metavar="N"),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help=r"Where the checkpoints and the record go. \[default: trained/NAME OF DATA]",
        rich_help_panel=_OUTPUT,
    ),
]
Store = Annotated[
    Literal["fp32", "fp16"] | None,
    typer.Option(
        help=r"Type of the weights in the files; fp16 halves them. \[default: fp32]",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the run in --output, with the options that it was begun with, but for "
        "those of the machine.",
        rich_help_panel=_OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace the run in --output.", rich_help_panel=_OUTPUT),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Let torch compile the network, for long runs: it takes a minute or so first, and "
        "needs a C++ compiler on a CPU.",
        rich_help_panel=_MACHINE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        metavar="N",
        min=0,
        max=256,
        help=r"Processes that decode; 0: none but the main one. \[default: chosen for the machine]",
        rich_help_panel=_MACHINE,
    ),
]
