"""The share that K/N and the environments of clusters stand for."""

import pytest

from resnest_cli.cluster.shard import Shard
from resnest_cli.errors import UsageError

SLURM = {
    "SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
}  # fmt: skip
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("text", "environment", "share"),
    [
        (None, {}, (0, 1)),
        ("1/1", {}, (0, 1)),
        ("16/16", TORCHRUN, (15, 16)),
        ("auto", SLURM, (3, 5)),
        ("auto", TORCHRUN, (1, 4)),
        ("auto/4", TORCHRUN, (1, 4)),
        ("auto/16", KUBERNETES, (0, 16)),
        ("auto", SLURM | TORCHRUN, (13, 20)),
        ("auto/8", KUBERNETES | TORCHRUN, (1, 8)),
    ],
)
def test_shares(text, environment, share):
    found = Shard.of(text, environment)
    assert (found.index, found.count) == share


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("0/3", {}), ("4/3", {}), ("3", {}), ("1/0", {}), ("a/b", {}), ("-1/3", {}), ("auto/0", {}),
        ("auto", {}), ("auto", KUBERNETES), ("auto/5", TORCHRUN), ("auto", {"RANK": "0"}),
        ("auto", TORCHRUN | {"RANK": "4"}), ("auto", TORCHRUN | {"RANK": "one"}),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "10"}),  # not a step of the array
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "99"}),
        ("auto/7", KUBERNETES | TORCHRUN),
    ],
)  # fmt: skip
def test_shares_that_cannot_be(text, environment):
    with pytest.raises(UsageError, match=r"^`shard"):
        Shard.of(text, environment)


def test_every_partition_has_one_share():
    for count in (1, 2, 3, 7):
        shares = [Shard.of(f"{k}/{count}") for k in range(1, count + 1)]
        for partition in range(20):
            assert sum(partition in share for share in shares) == 1
