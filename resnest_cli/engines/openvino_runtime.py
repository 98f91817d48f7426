"""OpenVINO without its converters, which take as long to import and are needed once per network.

`openvino` does without `openvino.tools` where that isn't installed. `openvino_convert` imports it.
"""

from __future__ import annotations

import sys

_CONVERTERS = "openvino.tools.ovc"
_hidden = _CONVERTERS not in sys.modules
if _hidden:
    sys.modules[_CONVERTERS] = None  # type: ignore[assignment]
try:
    import openvino as ov
finally:
    if _hidden:
        del sys.modules[_CONVERTERS]

__all__ = ["ov"]
