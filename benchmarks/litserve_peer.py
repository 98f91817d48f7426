"""The same network behind LitServe, for serve.py: `python litserve_peer.py PORT CHECKPOINT`.

Images come as base64 in JSON, as in LitServe's examples, and are computed in batches.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np

from resnest_cli import Classifier
from resnest_cli.inputs.source import Source


class Network(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.classifier = Classifier(weights=sys.argv[2], offline=True)

    def decode_request(self, request, **_):  # with a type, the body would be validated by it
        return self.classifier.load(Source("-", base64.b64decode(request["image"])))

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any, **_: Any) -> Any:
        return self.classifier.engine.run(x)[0]

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any, **_: Any) -> Any:
        result = self.classifier.result(Source("-", b""), output)
        return [{"label": p.label, "probability": p.probability} for p in result.predictions]


if __name__ == "__main__":
    server = litserve.LitServer(Network(max_batch_size=16, batch_timeout=0.005), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
