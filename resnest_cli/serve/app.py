"""The routes: predictions, models, health, figures, the API's description and the page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from resnest_cli.errors import ResNeStError
from resnest_cli.inputs.source import Source
from resnest_cli.serve.admission import Admission, Place
from resnest_cli.serve.bodies import read_sources
from resnest_cli.serve.guard import Guard
from resnest_cli.serve.metrics import Metrics
from resnest_cli.serve.openapi import description
from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.problems import Problem, answer_problem
from resnest_cli.serve.service import Answer, Dropped, Model, Ticket, as_json

_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_PARAMETERS = ("model", "top_k", "threshold")


class Service:
    """The state of a server and the handlers of its routes."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.admission = Admission(options)
        self.metrics = Metrics(lambda: self.admission.images)
        self.models: dict[str, Model] = {}

    def add(self, model: Model) -> None:
        """A further model; the first is the one that requests need not name."""
        self.models[model.classifier.config.name] = model

    def app(self) -> Guard:
        """The ASGI application."""
        routes = [
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route("/healthz", self.health),
            Route("/readyz", self.ready),
            Route("/metrics", self.figures),
            Route("/openapi.json", self.openapi),
            *(Route(path, _page_file(*file)) for path, file in _FILES.items()),
        ]
        handlers = {Problem: answer_problem, HTTPException: _not_found, Exception: _failed}
        inner = Starlette(routes=routes, exception_handlers=handlers)
        return Guard(inner, self.options, self.metrics, {route.path for route in routes})

    async def predict(self, request: Request) -> Response:
        """Images to predictions."""
        with self.admission.admit() as place:
            model, top_k, threshold = self._parameters(request)
            try:
                answers = await self._answers(request, place, model, top_k, threshold)
            except ClientDisconnect:
                request.scope["resnest.problem"] = "gone"
                return Response(status_code=400)  # which nobody reads
        results = [answer.result for answer in answers]
        failed = [result.error for result in results if result.error is not None]
        self.metrics.images.inc(len(results) - len(failed))
        if failed:
            self.metrics.failures.labels("image").inc(len(failed))
        if failed and len(results) == 1:
            raise Problem(422, failed[0], "image_alone")
        decode = 1e3 * max(answer.decode for answer in answers)
        compute = 1e3 * max(answer.compute for answer in answers)
        timing = {"server-timing": f"decode;dur={decode:.1f}, compute;dur={compute:.1f}"}
        body = as_json(results, top_k or model.classifier.top_k)
        return Response(body, headers=timing, media_type="application/json")

    async def _answers(
        self, request: Request, place: Place, model: Model, top_k: int | None,
        threshold: float | None,
    ) -> list[Answer]:  # fmt: skip
        seconds = self.options.deadline
        sources = await _within(seconds, read_sources(request, place, self.options))
        place.add_images(len(sources) - 1)
        ticket = Ticket(seconds)
        work = asyncio.gather(*(model.classify(s, ticket, top_k, threshold) for s in sources))
        gone = asyncio.ensure_future(_disconnected(request))
        both: list[asyncio.Future[Any]] = [work, gone]
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                answers = list(work.result())
                place.answered = True
                return answers
            if gone.done():
                raise ClientDisconnect
            raise Dropped
        except Dropped:
            raise Problem(504, f"no answer within {seconds:g} s", "deadline") from None
        except ResNeStError as error:
            raise Problem(500, str(error).split("\n")[0], "engine") from error
        finally:
            ticket.drop()
            gone.cancel()
            work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            # an error holds this frame, which would hold the error: a circle, and with it the body,
            # which stays until the garbage is collected
            del work, gone, both

    def _parameters(self, request: Request) -> tuple[Model, int | None, float | None]:
        query = request.query_params
        if unknown := [name for name in query if name not in _PARAMETERS]:
            raise Problem(400, f"unknown parameter '{unknown[0]}'", "bad_request")
        name = query.get("model", next(iter(self.models)))
        if name not in self.models:
            raise Problem(400, f"`model` must be one of {', '.join(self.models)}", "bad_request")
        model = self.models[name]
        most = model.classifier.config.num_classes
        top_k = _number(query.get("top_k"), "top_k", int, 1, most)
        threshold = _number(query.get("threshold"), "threshold", float, 0, 1)
        return model, None if top_k is None else int(top_k), threshold

    async def list_models(self, request: Request) -> Response:
        """The models, the default one first."""
        limits = {
            "max_upload_mb": self.options.max_upload_mb, "max_images": self.options.max_images
        }  # fmt: skip
        return JSONResponse({"models": [m.describe() | limits for m in self.models.values()]})

    async def health(self, request: Request) -> Response:
        """Whether the process is alive."""
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        """Whether requests are accepted."""
        if self.admission.stopping:
            raise Problem(503, "the server is stopping", "stopping")
        if not self.admission.ready:
            raise Problem(503, "the model is being loaded", "loading")
        return PlainTextResponse("ready\n")

    async def figures(self, request: Request) -> Response:
        """What was counted."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """The description of the API."""
        return JSONResponse(description(self.options))


def _number(
    text: str | None, name: str, kind: type[int] | type[float], low: int, high: int
) -> float | None:
    if text is None:
        return None
    try:
        if low <= (value := kind(text)) <= high:
            return value
    except ValueError:
        pass
    raise Problem(400, f"`{name}` must be {low} to {high}, not '{text[:40]}'", "bad_request")


async def _within(seconds: float, reading: Coroutine[Any, Any, list[Source]]) -> list[Source]:
    """What was read; `Problem` if it takes longer. As `asyncio.wait_for`, but without circles."""
    task = asyncio.ensure_future(reading)
    try:
        await asyncio.wait((task,), timeout=seconds)
        if task.done():
            return task.result()
        detail = f"the request did not arrive within {seconds:g} s"
        raise Problem(408, detail, "slow_client")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task, reading  # which hold the error that holds this frame


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _page_file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def file(request: Request) -> Response:
        path = _PAGE / name
        if not path.is_file():
            raise Problem(404, "no such page", "not_found")
        return Response(path.read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})

    return file


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.scope["resnest.problem"] = "not_found" if error.status_code == 404 else "bad_request"
    response = Problem(error.status_code, error.detail, "").response()
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    request.scope["resnest.problem"] = "fault"
    return Problem(500, "a fault of the server", "fault").response()
