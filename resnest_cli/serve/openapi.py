"""The description of the API, OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from resnest_cli.serve.options import ServeOptions
from resnest_cli.version import __version__

Document = dict[str, Any]
_TEXT, _WHOLE, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_PROBLEM = {"type": "object", "properties": {
    "type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT,
}}  # fmt: skip
_PREDICTION = {"type": "object", "properties": {
    "rank": _WHOLE, "index": _WHOLE, "wnid": {"type": ["string", "null"]}, "label": _TEXT,
    "probability": {"type": "number", "minimum": 0, "maximum": 1},
}}  # fmt: skip
_ROW = {"type": "object", "properties": {
    "path": _TEXT, "predictions": {"type": "array", "items": _PREDICTION},
    "error": {"type": ["string", "null"]},
}}  # fmt: skip
_MODEL = {"type": "object", "properties": {
    **dict.fromkeys(("name", "preprocessing", "engine", "device", "precision"), _TEXT),
    **dict.fromkeys(("classes", "crop", "max_upload_mb", "max_images"), _WHOLE),
}}  # fmt: skip
_REFUSALS = {
    400: "A wrong parameter or a body that cannot be read.",
    401: "The token is missing or wrong.",
    403: "URLs, or pages of this origin, are not served.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or has too many images.",
    415: "A wrong content type.",
    421: "A name in the Host header that is not served.",
    422: "The one image cannot be read.",
    429: "The queue is full; see Retry-After.",
    500: "A fault of the server.",
    503: "The model is being loaded, or the server is stopping.",
    504: "No answer within the deadline.",
}


def _answer(what: str, kind: str, schema: Document) -> Document:
    return {"description": what, "content": {kind: {"schema": schema}}}


def _refusals(*statuses: int) -> Document:
    return {str(s): _answer(_REFUSALS[s], "application/problem+json", _PROBLEM) for s in statuses}


def _get(what: str, kind: str, schema: Document, *refusals: int) -> Document:
    answers = {"200": _answer(what, kind, schema), **_refusals(403, 421, *refusals)}
    return {"get": {"summary": what, "responses": answers}}


def _predict(options: ServeOptions) -> Document:
    images = {"type": "array", "maxItems": options.max_images,
              "items": {"type": "string", "format": "binary"}}  # fmt: skip
    raw = {"type": "string", "format": "binary"}
    content: Document = {
        "multipart/form-data": {"schema": {
            "type": "object", "properties": {"images": images}, "required": ["images"],
        }},
        "image/*": {"schema": raw},
        "application/octet-stream": {"schema": raw},
    }  # fmt: skip
    if options.allow_urls:
        urls = {"type": "array", "items": {"type": "string", "format": "uri"}}
        body = {"type": "object", "properties": {"urls": urls}, "required": ["urls"]}
        content["application/json"] = {"schema": body}
    query = {
        "model": (_TEXT, "One of /v1/models."),
        "top_k": (_WHOLE | {"minimum": 1}, "Predictions per image."),
        "threshold": (_NUMBER | {"minimum": 0, "maximum": 1}, "Least probability."),
    }
    rows = _answer("A row for each image.", "application/json", {"type": "array", "items": _ROW})
    return {"post": {
        "summary": "Classify images.",
        "parameters": [
            {"name": name, "in": "query", "schema": schema, "description": what}
            for name, (schema, what) in query.items()
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": rows, **_refusals(*_REFUSALS)},
    }}  # fmt: skip


def description(options: ServeOptions) -> Document:
    """The OpenAPI document of a server with these options."""
    models = {"type": "object", "properties": {"models": {"type": "array", "items": _MODEL}}}
    paths = {
        "/v1/predict": _predict(options),
        "/v1/models": _get("The models.", "application/json", models, 401),
        "/healthz": _get("Alive.", "text/plain", _TEXT),
        "/readyz": _get("Ready for requests.", "text/plain", _TEXT, 503),
        "/metrics": _get("Figures for Prometheus.", "text/plain", _TEXT, 401),
        "/openapi.json": _get("This document.", "application/json", {"type": "object"}, 401),
    }
    document: Document = {
        "openapi": "3.1.0",
        "info": {"title": "resnest", "version": __version__},
        "paths": paths,
    }
    if options.token is not None:
        document["components"] = {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
        }
        document["security"] = [{"token": []}]
    return document
