"""A request's body to images that can be read, within limits on bytes and number."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from resnest_cli.inputs.source import STDIN, Source, is_url
from resnest_cli.serve.admission import Place
from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.problems import Problem

FIELD = "images"  # of a form
_FORM, _JSON = "multipart/form-data", "application/json"
# what programs send if they are not told what it is
_UNNAMED = ("", "application/octet-stream", "application/x-www-form-urlencoded")


async def read_sources(request: Request, place: Place, options: ServeOptions) -> list[Source]:
    """The images of a request; `Problem` if there are none or too many, or it is too large."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > options.max_upload:
        raise _too_large(options)
    if kind == _FORM:
        return await _of_form(request, place, options)
    if kind == _JSON:
        return _of_urls(await _whole(request, place, options), options)
    if kind in _UNNAMED or kind.startswith("image/"):
        if body := await _whole(request, place, options):
            return [Source(STDIN, body)]
        raise Problem(400, "the request has no body", "bad_request")
    raise Problem(415, f"send {_FORM} or an image, not '{kind}'", "content_type")


async def _whole(request: Request, place: Place, options: ServeOptions) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, place, options)])


async def _limited(
    request: Request, place: Place, options: ServeOptions
) -> AsyncGenerator[bytes, None]:
    """The body's pieces, one by one; `Problem` once they are too large."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > options.max_upload:
            raise _too_large(options)
        place.add_bytes(len(chunk))
        yield chunk


async def _of_form(request: Request, place: Place, options: ServeOptions) -> list[Source]:
    stream = _limited(request, place, options)
    most = options.max_images
    parser = MultiPartParser(request.headers, stream, max_files=most, max_fields=0)
    parser.spool_max_size = options.max_upload  # nothing is written to disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise Problem(413, f"more than {most} images", "too_many") from error
        raise Problem(400, f"the form cannot be read: {error.message}", "bad_request") from error
    except (ValueError, KeyError) as error:
        raise Problem(400, f"the form cannot be read: {error}", "bad_request") from error
    try:
        files = form.multi_items()
        if not files or any(name != FIELD or isinstance(f, str) for name, f in files):
            raise Problem(400, f"each part of the form must be a file '{FIELD}'", "bad_request")
        return [
            Source(f.filename or STDIN, await f.read())
            for _, f in files
            if isinstance(f, UploadFile)
        ]
    finally:
        await form.close()


def _of_urls(body: bytes, options: ServeOptions) -> list[Source]:
    if not options.allow_urls:
        raise Problem(403, "this server fetches no URLs (option allow-urls)", "urls_off")
    try:
        urls = json.loads(body)["urls"]
    except (ValueError, KeyError, TypeError, RecursionError):
        urls = None
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise Problem(400, 'the body must be {"urls": ["https://..."]}', "bad_request")
    if len(urls) > options.max_images:
        raise Problem(413, f"more than {options.max_images} images", "too_many")
    # a text that is no URL must not become a path
    return [
        Source(url, url) if is_url(url) else Source(url, error="not an http or https URL")
        for url in urls
    ]


def _too_large(options: ServeOptions) -> Problem:
    return Problem(413, f"the request is larger than {options.max_upload_mb} MiB", "too_large")
