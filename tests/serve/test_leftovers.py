"""What requests leave to the garbage collector, which seldom runs: nothing of any size."""

from __future__ import annotations

import asyncio
import gc

import pytest

from resnest_cli.errors import EngineError
from resnest_cli.serve.admission import Place
from resnest_cli.serve.options import ServeOptions
from tests.conftest import FakeEngine, drawn
from tests.hostile import stored
from tests.serve.conftest import SlowEngine, talk

PNG = stored(drawn(), "PNG")


class Broken(FakeEngine):
    def run(self, pixels, outputs=("logits",)):
        if self.batches:
            raise EngineError("out of memory")
        return super().run(pixels, outputs)


def places() -> int:
    """How many there are, of other tests too."""
    return sum(type(one) is Place for one in gc.get_objects())


async def post(service, *messages: tuple[bytes, bool] | None, kind: bytes = b"image/png") -> int:
    """The status of the answer; what is sent is a body's pieces, or the client's end."""
    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict", "root_path": "",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", kind)],
    }  # fmt: skip
    left, statuses = list(messages), [0]

    async def receive():
        if not left:
            await asyncio.sleep(60)
        if (message := left.pop(0)) is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": message[0], "more_body": message[1]}

    async def send(message):
        statuses.append(message.get("status", statuses[-1]))

    await service.app()(scope, receive, send)
    return statuses[-1]


@pytest.mark.parametrize(
    ("status", "messages", "engine", "kind"),
    [
        (200, [(PNG, False)], FakeEngine, b"image/png"),
        (422, [(b"no image", False)], FakeEngine, b"image/png"),
        (400, [(PNG, True), None], FakeEngine, b"image/png"),  # a cut upload
        (400, [(PNG, False), None], SlowEngine, b"image/png"),  # gone while it waits
        (408, [(PNG, True)], FakeEngine, b"image/png"),
        (413, [(bytes(2**20 + 1), True)], FakeEngine, b"image/png"),
        (415, [(PNG, False)], FakeEngine, b"text/plain"),
        (400, [(b"--x", False)], FakeEngine, b"multipart/form-data; boundary=y"),
        (400, [(b"--x", True), None], FakeEngine, b"multipart/form-data; boundary=x"),
        (500, [(PNG, False)], Broken, b"image/png"),
        (504, [(PNG, False)], SlowEngine, b"image/png"),
    ],
)
def test_a_request_leaves_nothing_to_the_garbage_collector(status, messages, engine, kind):
    made = engine()

    async def call(_, service):
        assert await post(service, (PNG, False)) in (200, 504)  # imports and the like
        gc.collect()
        gc.disable()
        before = places()
        try:
            assert await post(service, *messages, kind=kind) == status
            await asyncio.sleep(0.05)  # the loop and the threads hold what they did last
            return places() - before
        finally:
            gc.enable()
            if isinstance(made, SlowEngine):
                made.go.set()

    assert talk(call, ServeOptions(deadline=0.5, max_upload_mb=1), engine=made) == 0
