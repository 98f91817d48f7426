"""Errors of HTTP as problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from resnest_cli.outputs.formats import encode

# answers that may leave a part of the request's body unread, after which the connection is closed
_CUT = (401, 403, 408, 413, 415, 421, 429, 503)


class Problem(Exception):
    """A request that is not answered with predictions: a status, and why in one line."""

    def __init__(self, status: int, detail: str, kind: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.kind, self.retry_after = status, detail, kind, retry_after

    def response(self) -> Response:
        """The answer."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        headers = {"connection": "close"} if self.status in _CUT else {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        response = Response(encode(body), self.status, headers, "application/problem+json")
        if self.status == 401:  # a header each: browsers ask for no password where one names both
            for scheme in ("Basic", "Bearer"):
                response.headers.append("www-authenticate", f'{scheme} realm="resnest"')
        return response


async def answer_problem(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in a `Problem`."""
    assert isinstance(error, Problem)
    request.scope["resnest.problem"] = error.kind
    return error.response()
