"""The API in this process: answers, limits, refusals."""

from __future__ import annotations

import asyncio
import json

import pytest

from resnest_cli.errors import UsageError
from resnest_cli.serve.options import ServeOptions
from resnest_cli.serve.service import as_json
from tests.conftest import FakeEngine, drawn
from tests.hostile import stored
from tests.serve.conftest import SlowEngine, classifier, talk

PREDICT = "/v1/predict"
PNG = stored(drawn(), "PNG")


def form(*contents: bytes, field: str = "images"):
    return {"files": [(field, (f"p{n}.png", c, "image/png")) for n, c in enumerate(contents)]}


def expected(*contents: bytes) -> bytes:
    """What `predict -f json` writes, of the same classifier."""
    from resnest_cli.inputs.source import Source

    made = classifier()
    sources = [Source(f"p{n}.png", c) for n, c in enumerate(contents)]
    return as_json(list(made.stream(sources)), made.top_k)


def test_the_same_bytes_alone_and_amid_64_others():
    images = [stored(drawn(seed=seed), "PNG") for seed in range(8)]

    async def call(client, service):
        alone = await client.post(PREDICT, **form(PNG))
        others = [client.post(PREDICT, **form(images[n % 8])) for n in range(64)]
        amid = (await asyncio.gather(*others, client.post(PREDICT, **form(PNG))))[-1]
        return alone, amid, await client.post(PREDICT, **form(*images))

    alone, amid, several = talk(call, engine=FakeEngine(batch_size=4))
    assert alone.content == amid.content == expected(PNG)
    assert several.content == expected(*images)
    assert alone.headers["server-timing"].startswith("decode;dur=")


def test_a_raw_body_and_parameters():
    async def call(client, service):
        return [
            await client.post(PREDICT, content=PNG, params=p)
            for p in ({}, {"top_k": 2}, {"threshold": 1}, {"top_k": 11}, {"top_k": "x"},
                      {"threshold": "nan"}, {"model": "no"}, {"topk": 1}, {"model": "fake"})
        ]  # fmt: skip

    answers = talk(call)
    assert [a.status_code for a in answers] == [200, 200, 200, 400, 400, 400, 400, 400, 200]
    assert [len(a.json()[0]["predictions"]) for a in answers[:3]] == [5, 2, 0]
    assert answers[0].json()[0]["path"] == "-"


def test_a_bad_image_alone_and_among_others():
    async def call(client, service):
        return await client.post(PREDICT, content=b"no image"), await client.post(
            PREDICT, **form(PNG, b"", PNG)
        )

    alone, among = talk(call)
    assert alone.status_code == 422
    assert alone.headers["content-type"] == "application/problem+json"
    assert "not an image" in alone.json()["detail"]
    assert [row["error"] for row in among.json()] == [None, "the file is empty", None]
    assert among.content == expected(PNG, b"", PNG)


@pytest.mark.parametrize(("status", "request_"), [
    (415, {"content": PNG, "headers": {"content-type": "text/plain"}}),
    (400, {"content": b""}),
    (400, {"content": b"--x", "headers": {"content-type": "multipart/form-data"}}),
    (400, {"content": b"nonsense",
           "headers": {"content-type": "multipart/form-data; boundary=x"}}),
    (400, form(PNG, field="file")),
    (400, {"data": {"images": "text"}, "files": {"other": b""}}),
    (413, {"content": bytes(2**20 + 1)}),
    (413, form(*[b"x"] * 4)),
    (403, {"json": {"urls": ["http://example.org/a.jpg"]}}),
    (421, {"content": PNG, "headers": {"host": "evil.example"}}),
    (421, {"content": PNG, "headers": {"host": "[broken"}}),
    (403, {"content": PNG, "headers": {"origin": "http://evil.example"}}),
    (403, {"content": PNG, "headers": {"origin": "null"}}),
])  # fmt: skip
def test_refusals(status, request_):
    async def call(client, service):
        answer = await client.post(PREDICT, **request_)
        return answer, service.admission

    answer, admission = talk(call, ServeOptions(max_upload_mb=1, max_images=3))
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert (admission.requests, admission.images, admission.bytes) == (0, 0, 0)


def test_a_body_without_length_is_cut_off():
    async def body():
        for _ in range(40):
            yield bytes(2**16)

    async def call(client, service):
        return (await client.post(PREDICT, content=body())).status_code

    assert talk(call, ServeOptions(max_upload_mb=1)) == 413


@pytest.mark.parametrize(("chunks", "read"), [(9, 9), (40, 16)])
def test_a_refused_body_is_read_within_limits(chunks, read):
    """Else the connection is reset, and the answer lost."""
    sent = []

    async def body():
        for number in range(chunks):
            yield bytes(2**16)
            sent.append(number)

    async def call(client, service):
        headers = {"content-type": "text/plain"}
        return (await client.post(PREDICT, content=body(), headers=headers)).status_code

    assert talk(call) == 415
    assert read - 1 <= len(sent) <= read


def test_urls_are_no_paths_and_go_through_the_guarded_fetcher(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    urls = [str(tmp_path / "a.png"), "file:///etc/passwd", "http://127.0.0.1:9/a.png"]

    async def call(client, service):
        wrong = [await client.post(PREDICT, json=j) for j in ({"urls": [1]}, [], {"urls": []})]
        return await client.post(PREDICT, json={"urls": urls}), wrong

    answer, wrong = talk(call, ServeOptions(allow_urls=True))
    errors = [row["error"] for row in answer.json()]
    assert errors[:2] == ["not an http or https URL"] * 2
    assert "this machine" in errors[2] or "public" in errors[2]
    assert [w.status_code for w in wrong] == [400] * 3


def test_a_full_queue_says_when_to_come_again():
    engine = SlowEngine()

    async def call(client, service):
        first = [asyncio.ensure_future(client.post(PREDICT, content=PNG)) for _ in range(3)]
        await asyncio.to_thread(engine.began.wait)
        while service.admission.images < 3:
            await asyncio.sleep(0.01)
        full = await client.post(PREDICT, content=PNG)
        engine.go.set()
        return full, [(await answer).status_code for answer in first]

    full, first = talk(call, ServeOptions(queue=3, max_images=3), engine=engine)
    assert (full.status_code, first) == (429, [200] * 3)
    assert 1 <= int(full.headers["retry-after"]) <= 60


def test_what_is_late_is_not_computed():
    engine = SlowEngine()

    async def call(client, service):
        late = await asyncio.gather(*(client.post(PREDICT, content=PNG) for _ in range(12)))
        engine.go.set()
        again = await client.post(PREDICT, content=PNG)
        return [a.status_code for a in late], again.status_code

    late, again = talk(call, ServeOptions(deadline=1), engine=engine)
    assert (late, again) == ([504] * 12, 200)
    assert len(engine.batches) <= 3  # what the engine had already, and the last one


def test_stopping_and_loading():
    async def call(client, service):
        ready = (await client.get("/readyz")).status_code
        service.admission.stopping = True
        return (
            ready, (await client.get("/readyz")).status_code,
            (await client.get("/healthz")).status_code,
            (await client.post(PREDICT, content=PNG)).status_code,
        )  # fmt: skip

    assert talk(call) == (200, 503, 200, 503)
    assert talk(call, ready=False)[0] == 503


def test_the_token():
    async def call(client, service):
        tried = [{}, {"authorization": "Bearer no"}, {"authorization": "Bearer secret"},
                 {"authorization": "Basic eDpzZWNyZXQ="}, {"authorization": "Basic ?"}]  # fmt: skip
        answers = [await client.get("/v1/models", headers=h) for h in tried]
        asked = answers[0].headers.get_list("www-authenticate")
        return [a.status_code for a in answers], asked, (await client.get("/healthz")).status_code

    asked = ['Basic realm="resnest"', 'Bearer realm="resnest"']
    assert talk(call, ServeOptions(token="secret")) == ([401, 401, 200, 200, 401], asked, 200)


def test_cors_is_for_named_origins():
    async def call(client, service):
        asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
        preflight = await client.options(PREDICT, headers=asked)
        answer = await client.post(PREDICT, content=PNG, headers={"origin": "https://a.example"})
        return [preflight.status_code, answer.status_code], answer.headers

    named, headers = talk(call, ServeOptions(cors=("https://a.example",), token=None))
    assert named == [204, 200]
    assert headers["access-control-allow-origin"] == "https://a.example"
    unnamed, headers = talk(call)
    assert unnamed == [403, 403]
    assert "access-control-allow-origin" not in headers


def test_the_document_names_the_routes():
    async def call(client, service):
        document = (await client.get("/openapi.json")).json()
        inner = service.app()._inner
        return document, {r.path: r.methods - {"HEAD"} for r in inner.routes}, [
            (await client.get("/metrics")).text, (await client.get("/v1/models")).json()
        ]  # fmt: skip

    document, routes, (figures, models) = talk(call)
    described = {path: {m.upper() for m in ways} for path, ways in document["paths"].items()}
    page = {"/", "/app.js", "/style.css"}
    assert described == {path: ways for path, ways in routes.items() if path not in page}
    assert "resnest_queue_images 0.0" in figures
    answer = document["paths"]["/v1/models"]["get"]["responses"]["200"]["content"]
    schema = answer["application/json"]["schema"]["properties"]["models"]["items"]
    assert set(models["models"][0]) == set(schema["properties"])
    json.dumps(document)


def test_headers_and_errors_of_other_paths():
    async def call(client, service):
        return await client.get("/../etc/passwd"), await client.get(PREDICT)

    missing, wrong = talk(call)
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert "default-src 'none'" in missing.headers["content-security-policy"]


def test_frames_are_for_named_origins():
    async def call(client, service):
        return (await client.get("/")).headers["content-security-policy"]

    assert talk(call).endswith("; frame-ancestors 'none'")
    named = ServeOptions(allow_framing=("https://a.example", "http://localhost:8080"))
    assert talk(call, named).endswith("; frame-ancestors https://a.example http://localhost:8080")


@pytest.mark.parametrize("wrong", [
    {"allow_framing": ("https://a.example; script-src *",)}, {"queue": 4, "max_images": 8},
    {"port": 70000}, {"token": ""}, {"deadline": 0},
])  # fmt: skip
def test_wrong_options(wrong):
    with pytest.raises(UsageError):
        ServeOptions(**wrong)
