"""JPEGs that lack their end marker, and perhaps pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LONGEST_MCU = 4096  # bytes that the smallest unit takes, and more


def ended(data: bytes) -> Iterator[bytes]:
    """A truncated JPEG with an end marker, in three ways; nothing if whole scans are missing.

    With an end marker any truncated JPEG is decoded, with what is missing made up; so other data
    are put there, too: if they change no pixel, none was missing.
    """
    data = data.rstrip(b"\xff")
    if not _has_all_scans(data):
        return
    # the restart marker that would be the next, as whole intervals may be missing
    last = re.findall(rb"\xff([\xd0-\xd7])", data)[-1:] or [b"\xd7"]
    restart = bytes([0xFF, 0xD0 | (last[0][0] + 1) & 7])
    for bits in (b"", b"\xaa", b"\x55"):
        other = bits * _LONGEST_MCU
        yield data + other + (restart + other if other else b"") + b"\xff\xd9"


def _has_all_scans(data: bytes) -> bool:
    """Whether a JPEG, if it is a progressive one, has the last scan of each coefficient."""
    lowest: dict[tuple[int, int], int] = {}  # (component, coefficient) -> bits still to come
    components = 0
    for marker in re.finditer(rb"\xff([\xc2\xda])", data):
        segment = data[marker.end() + 2 : marker.end() + 16]
        if marker[1] == b"\xc2":
            components = segment[5] if len(segment) > 5 else 0
        elif components and segment:
            first, last, bits = (*segment[1 + 2 * segment[0] :][:3], 0, 0, 0)[:3]
            for component in segment[1 : 1 + 2 * segment[0] : 2]:
                for number in range(first, min(last, 63) + 1):
                    lowest[component, number] = bits & 15
    return not components or (len(lowest) == 64 * components and not any(lowest.values()))
