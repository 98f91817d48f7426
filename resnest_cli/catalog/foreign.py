"""Files that stand where a checkpoint was expected: what each is, and how to get a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from resnest_cli.errors import CheckpointError
from resnest_cli.file_kinds import file_kind
from resnest_cli.text import printable

_HEAD = 512  # bytes that are looked at
_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # a number that begins torch.save's legacy format
_PICKLED_NETWORK = b"torch.nn.modules.conv\nConv2d"  # how a pickle names a network's class


def check_kind(path: Path) -> bytes:
    """A file's first bytes; `CheckpointError` if it is known to be no checkpoint and no graph."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise CheckpointError(f"'{path}' is empty")
    if not head.strip(b"\0"):
        raise CheckpointError(
            f"'{path}' is damaged: it begins with zeros, as an unfinished download does\n"
            "download it again"
        )
    ours = head.startswith(b"PK") or is_safetensors(head)  # perhaps
    if found := None if ours else file_kind(head):
        kind, remedy = found
        raise _foreign(path, kind, remedy or "use a checkpoint that PyTorch wrote")
    if head.startswith(b"\x80") and _TORCH_MAGIC not in head[:64]:
        remedy = "load it in Python if you trust it, and write its tensors with torch.save"
        raise _foreign(path, "a pickle that torch.save did not write", remedy)
    xml = path.suffix == ".xml" and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(
        b"<?xml"
    )  # as a graph is
    if not xml and head[:64].isascii() and min(head[:64]) >= ord("\t"):
        begins = printable(head[:30].decode("ascii").strip())
        raise _foreign(
            path,
            f"a text, which begins '{begins}'",
            "use the checkpoint itself; was its download complete?",
        )
    return head


def is_safetensors(head: bytes) -> bool:
    """Whether first bytes are the length of a header of JSON, as safetensors has it."""
    return head[8:9] == b"{" and head[6:8] == b"\0\0"


def check_members(path: Path, names: Iterable[str]) -> None:
    """Raise `CheckpointError` unless a zip file's members are those that `torch.save` writes."""
    last = {name.partition("/")[2] or name: name for name in names}
    if "constants.pkl" in last or any(name.startswith("code/") for name in last):
        raise _foreign(
            path,
            "a TorchScript program, which is never run; take its weights out of it",
            f"in Python: torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')",
        )
    if "archive_format" in last or "serialized_exported_program.json" in last:
        remedy = "use the checkpoint that it was exported from"
        raise _foreign(path, "a program (torch.export), which is never run", remedy)
    if "data.pkl" not in last:
        some = next(iter(last.values()), None)
        holds = f" that holds '{printable(some)}'" if some else ""
        raise _foreign(path, f"a zip archive{holds}", "unpack it, and use the file inside")


def explain_objects(path: Path, blocked: str) -> CheckpointError:
    """The error for a pickle that names the class `blocked`, which is not plain data."""
    with path.open("rb") as file:
        network = _PICKLED_NETWORK in file.read(2**22)  # the pickle comes before the tensors
    held = "a whole pickled network" if network else "Python objects"
    model = f"torch.load({str(path)!r}, weights_only=False)" if network else "model"
    return CheckpointError(
        f"'{path}' was not loaded: it holds {held} ({printable(blocked)}), and loading that could "
        "run code\nif you trust it, save its tensors alone where it was made: "
        f"torch.save({model}.state_dict(), 'weights.pth')"
    )


def _foreign(path: Path, kind: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"'{path}' is not a checkpoint but {kind}\n{remedy}")
