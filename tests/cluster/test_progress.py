"""Progress counts what is left."""

from resnest_cli import Progress
from resnest_cli.cluster.partitions import part_name
from tests.cluster.conftest import job


class Noted(Progress):
    def __init__(self) -> None:
        self.totals: list[int] = []
        self.rows = 0

    def total(self, count: int) -> None:
        self.totals.append(count)

    def advance(self) -> None:
        self.rows += 1


def test_progress_counts_what_is_left(small, tmp_path):
    for wanted in (20, 0, 3):
        if wanted == 3:
            (tmp_path / "out" / part_name(1, "jsonl")).unlink()
        noted = Noted()
        job(small, tmp_path / "out").run(noted)
        assert (noted.totals, noted.rows) == ([wanted], wanted)
