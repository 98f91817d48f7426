"""Writes fuzz/corpus: small images of every kind that tests/hostile.py builds.

python fuzz/corpus.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import hostile  # noqa: E402
from tests.conftest import drawn  # noqa: E402

LARGEST = 6_000  # bytes


def main() -> None:
    hostile.RGB = drawn(24, 18)
    hostile._PHOTO = drawn(32, 24, seed=1)
    folder = Path(__file__).parent / "corpus"
    folder.mkdir(exist_ok=True)
    for name, (content, _) in hostile.kinds().items():
        if 0 < len(content) <= LARGEST and not name.startswith("cut"):
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
