"""Which share of the work a process does: K/N, or what the environment of a cluster says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from resnest_cli.errors import UsageError

_SLURM = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """The share `index` (from 0) of `count`: every `count`-th partition."""

    index: int
    count: int

    def __contains__(self, partition: int) -> bool:
        """Whether a partition, by its number, is part of it."""
        return partition % self.count == self.index

    @classmethod
    def of(cls, text: str | None, environment: Mapping[str, str] | None = None) -> Shard:
        """The share that `K/N` (K from 1 to N), `auto` or `auto/N` stands for; None: all.

        `auto` is for tasks of a SLURM array and processes of torchrun, and `auto/N` for a
        Kubernetes indexed job of N, which does not know N.

        Raises:
            UsageError: it is none of these, or the environment does not say.
        """
        found = re.fullmatch(r"(?:(auto)|(\d{1,9}))(?:/(\d{1,9}))?", text or "1/1")
        if not found or (found[2] and not 1 <= int(found[2]) <= int(found[3] or 0)):
            raise UsageError(
                f"`shard` must be K/N with K from 1 to N, such as 2/16, or auto, not '{text}'"
            )
        if found[2]:
            return cls(int(found[2]) - 1, int(found[3]))
        return cls._of_environment(
            int(found[3]) if found[3] else None, os.environ if environment is None else environment
        )

    @classmethod
    def _of_environment(cls, total: int | None, environment: Mapping[str, str]) -> Shard:
        try:
            shares = [*_shares(environment, total)]
        except (ValueError, ZeroDivisionError, KeyError) as error:
            raise UsageError(
                "`shard=auto`: the variables of SLURM, torchrun or Kubernetes are incomplete; "
                "name the share as K/N"
            ) from error
        index, count = 0, 1
        for share in shares:  # such as torchrun in each task of an array
            index, count = index * share.count + share.index, count * share.count
        valid = all(0 <= share.index < share.count for share in shares)
        if not shares or not valid or total not in (None, count):
            reason = (
                "finds neither a SLURM array, nor torchrun, nor a Kubernetes indexed job"
                if not shares
                else f"finds share {index + 1} of {count}, which cannot be"
            )
            raise UsageError(f"`shard=auto` {reason}; name the share as K/N")
        return cls(index, count)


def _shares(environment: Mapping[str, str], total: int | None) -> Iterator[Shard]:
    """The share of each of the programs that have started this process, the outer one first."""
    names = environment.keys()

    def number(name: str) -> int:
        return int(environment[name])

    if f"{_SLURM}ID" in names:
        from_first = number(f"{_SLURM}ID") - number(f"{_SLURM}MIN")
        index, rest = divmod(from_first, int(environment.get(f"{_SLURM}STEP", "1")))
        yield Shard(index if not rest else -1, number(f"{_SLURM}COUNT"))
    if "JOB_COMPLETION_INDEX" in names:
        if total is None:
            raise UsageError(
                "`shard=auto`: Kubernetes does not tell the number of completions; "
                "name it, as in `shard=auto/16`"
            )
        world = number("WORLD_SIZE") if "RANK" in names else 1
        yield Shard(number("JOB_COMPLETION_INDEX"), total // world)
    if "RANK" in names:
        yield Shard(number("RANK"), number("WORLD_SIZE"))
