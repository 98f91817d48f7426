"""`resnest serve`: a page and an API."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from resnest_cli import settings
from resnest_cli.cli import options
from resnest_cli.cli.options import INPUT, MODEL, option
from resnest_cli.cli.progress import chosen_progress
from resnest_cli.engines.api import ModelSpec, RuntimeOptions
from resnest_cli.errors import UsageError, require_extra
from resnest_cli.imaging.decode_options import DecodeOptions
from resnest_cli.progress import set_verbosity
from resnest_cli.serve.options import MAX_PIXELS, ServeOptions

log = logging.getLogger(__name__)

SERVER = "Server"


def serve(
    model: Annotated[
        list[str] | None,
        option(
            "--model -m NAME",
            MODEL,
            "Model name, demo, or a checkpoint's path; repeatable: the first one answers requests "
            "that name none. [default: $RESNEST_MODEL, else resnest50]",
            complete=options.complete_model,
        ),
    ] = None,
    weights: options.Weights = None,
    labels: options.LabelsFile = None,
    preprocess: options.Preprocess = "default",
    crop: options.Crop = None,
    resize: options.Resize = None,
    top_k: options.TopK = None,
    host: Annotated[str, option("--host ADDRESS", SERVER, "Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, option("--port N", SERVER, "Port to listen on; 0 takes a free one.", (0, 65535))
    ] = 8000,
    token: Annotated[
        str | None,
        option(
            "--token TEXT",
            SERVER,
            "Ask clients for this token: as a bearer token, or as the password that browsers ask "
            "for; @FILE reads it from a file, so that it is in no list of processes.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        option(
            "--allow-host NAME",
            SERVER,
            "A further name under which the server is reached, or * for any; repeatable.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        option(
            "--cors ORIGIN",
            SERVER,
            "Let pages of this origin, such as https://example.org, use the server; repeatable.",
        ),
    ] = None,
    allow_framing: Annotated[
        list[str] | None,
        option(
            "--allow-framing ORIGIN",
            SERVER,
            "Let pages of this origin, such as https://huggingface.co, show the page in a frame; "
            "repeatable.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool, option("--allow-urls", SERVER, "Fetch images that requests name by public URLs.")
    ] = False,
    queue: Annotated[
        int,
        option("--queue N", SERVER, "Images accepted and not answered; more get 429.", (1, None)),
    ] = 256,
    deadline: Annotated[
        float,
        option("--deadline S", SERVER, "Seconds until a request is given up (504).", (0.1, None)),
    ] = 30.0,
    max_upload_mb: Annotated[
        int, option("--max-upload-mb N", SERVER, "Largest request, in MiB.", (1, None))
    ] = 64,
    max_images: Annotated[
        int, option("--max-images N", SERVER, "Images in a request, at most.", (1, None))
    ] = 64,
    grace: Annotated[
        float,
        option(
            "--grace S",
            SERVER,
            "Seconds for accepted requests after SIGTERM, at most.",
            (0.1, None),
        ),
    ] = 30.0,
    no_exif: options.NoExif = False,
    background: options.Background = None,
    max_pixels: Annotated[
        int,
        option("--max-pixels N", INPUT, "Reject images with more than N pixels.", (1, None)),
    ] = MAX_PIXELS,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    compiled: options.Compile = False,
    batch_size: options.BatchSize = None,
    workers: options.Workers = None,
    offline: options.Offline = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Classify images over HTTP: a page and an API.

    Needs pip install 'resnest-cli\\[serve]'. Requests are logged on standard error. SIGTERM or
    Ctrl-C stop it: what was accepted is answered, then it exits with code 0.

    Examples:

      resnest serve

      resnest serve --model demo --port 8080

      resnest serve --host 0.0.0.0 --allow-host example.org --token @token.txt

      curl --data-binary @dog.jpg http://127.0.0.1:8000/v1/predict
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    require_extra("serve", "starlette", "uvicorn", "python_multipart", "prometheus_client")
    offline = offline or settings.offline()
    wanted = ServeOptions(
        host, port, grace, queue, deadline, max_upload_mb, max_images, _token(token),
        tuple(allow_host or ()), tuple(cors or ()), tuple(allow_framing or ()), allow_urls,
    )  # fmt: skip
    if len(model or ()) > 1 and (weights or labels):
        raise UsageError("`weights` and `labels` are for one `model`, not for several")
    names = [options.chosen_model(name, weights) for name in model or ()]
    names = names or [options.chosen_model(None, weights)]
    specs = [
        ModelSpec(name, weights, labels, preprocess, crop, resize, offline=offline)
        for name in names
    ]
    if not wanted.is_loopback and wanted.token is None:
        log.warning(
            "everyone who reaches %s may use this server; `token` asks for a password", host
        )
    from resnest_cli.serve.server import serve as run

    run(
        specs,
        RuntimeOptions(device, engine, precision, compiled, batch_size, workers),
        DecodeOptions(not no_exif, options.colour(background), max_pixels, offline=offline),
        wanted,
        top_k=top_k,
        progress=chosen_progress(names[0] or settings.DEFAULT_MODEL, quiet=quiet, tasks=False),
    )
    return 0


def _token(given: str | None) -> str | None:
    """The token, or what the file that it names holds."""
    if given is None or not given.startswith("@"):
        return given
    return Path(given[1:]).read_text(encoding="utf-8").strip()
