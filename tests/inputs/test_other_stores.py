"""Google's and Azure's stores, as far as a stand-in shows: listing, reading, what is missing."""

import json
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from resnest_cli.inputs import stores
from resnest_cli.inputs.discover import expand
from tests.inputs.test_archives import outcome

OBJECTS = {"p/a.png": b"a", "p/b/c.png": b"cc", "p/d.txt": b""}
BLOB = (
    "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>x</Etag>"
    "<Content-Length>{}</Content-Length><Content-Type>image/png</Content-Type></Properties></Blob>"
)
BLOBS = (
    '<EnumerationResults ContainerName="c"><Prefix>p</Prefix><Blobs>{}</Blobs><NextMarker/>'
    "</EnumerationResults>"
)
ITEM = (
    "<Contents><Key>{0}</Key><LastModified>2026-11-27T13:00:00.000Z</LastModified><ETag>x</ETag>"
    "<Size>{2}</Size></Contents>"
)
ITEMS = "<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>"


class StandIn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        item, items = (BLOB, BLOBS) if "comp" in query else (ITEM, ITEMS)
        listed = (item.format(k, formatdate(0, usegmt=True), len(v)) for k, v in OBJECTS.items())
        key = unquote(address.path).removeprefix("/photos/")
        body: bytes | None = OBJECTS.get(key)
        if "comp" in query or "list-type" in query:
            body = items.format("".join(listed)).encode()
        self.send_response(404 if body is None else 200)
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")


@pytest.fixture
def stand_in(monkeypatch) -> Iterator[None]:
    pytest.importorskip("obstore")
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "",
               "private_key_id": ""}  # fmt: skip
    for name, value in {
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
        "AZURE_STORAGE_ENDPOINT": url,
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),
        "GOOGLE_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    stores._store.cache_clear()
    yield
    stores._store.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_a_prefix_is_listed_and_its_objects_read(scheme, stand_in):
    found = list(expand([f"{scheme}://photos/p/"]))
    names = [f"{scheme}://photos/p/a.png", f"{scheme}://photos/p/b/c.png"]
    assert [source.name for source in found] == names
    assert [source.content.read() for source in found] == [b"a", b"cc"]
    (missing,) = expand([f"{scheme}://photos/p/none.png"])
    assert outcome(missing) == "no such object"


def test_no_account(monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    stores._store.cache_clear()
    (row,) = expand(["az://photos/p/none.png"])
    assert outcome(row) == "no key for the store in the environment"
