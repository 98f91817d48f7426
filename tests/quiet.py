"""Runs commands where every contact with a network and every file written is recorded.

Each runs without a network if `unshare` can take it away, with a home folder of its own. What
Python does is recorded by an audit hook in each Python process, what native code does by `strace`
if that is installed. So any capability is tested in a line or two:

    seen = Quiet(tmp_path).run(["predict", "a.png", "-m", "demo"])
    seen.check()
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

Command = list[object]

# installed in every Python process, those of `spawn` and `fork` included
_HOOK = """
import os, sys
def record(event, arguments, log=os.environ["QUIET_LOG"]):
    line = None
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        line = f"contact {arguments[0]}"
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[-1], tuple):
        line = f"contact {arguments[-1][0]}"
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & 3:
        line = f"write {os.path.abspath(arguments[0])}" if isinstance(arguments[0], str) else None
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink"):
        line = f"write {os.path.abspath(os.fsdecode(arguments[event != 'os.mkdir']))}"
    if line and not line.startswith(f"write {log}"):
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, (line.encode(errors="replace") + b"\\n"))
        os.close(file)
sys.addaudithook(record)
"""
# each command in turn, the environment put back between them, with its exit code
_DRIVER = """
import json, os, sys
from resnest_cli.cli import app
before, codes = os.environ.copy(), []
for command in json.loads(sys.argv[1]):
    try:
        codes.append(app.run(command))
    except SystemExit as end:
        codes.append(end.code or 0)
    os.environ.clear()
    os.environ.update(before)
sys.stdout.flush()
print("\\n" + json.dumps(codes))
"""
_CALLS = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
_WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT)|^\d+ +(creat|mkdir|rename|link|symlink)")
_DEVICES = ("/dev/", "/proc/")  # shared memory, terminals, a thread's own name


@dataclass
class Seen:
    """What was recorded."""

    codes: list[int]
    stdout: str
    stderr: str
    contacts: list[str]
    strays: list[str]  # files written outside of the folders of `Quiet`
    in_home: list[str]
    left: list[str] = field(default_factory=list)  # in the folder for temporary files

    def check(self, *, in_home: str | None = None) -> None:
        """Nothing was contacted, and nothing written outside, into the home but `in_home`."""
        assert not self.contacts, self.contacts
        assert not self.strays, self.strays
        assert not self.left, self.left
        wrong = [name for name in self.in_home if not f"{name}/".startswith(f"{in_home}/")]
        assert not wrong, wrong


class Quiet:
    """A machine's folders: `home`, `cache` (`$RESNEST_HOME`), `tmp`, and `work`, the current one.

    Args:
        folder: what they are in.
        cache: whether `$RESNEST_HOME` is set; else the default applies.
    """

    def __init__(self, folder: Path, *, cache: bool = True) -> None:
        self.folder = folder / "quiet"
        for name in ("home", "tmp", "work", "site"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "site" / "sitecustomize.py").write_text(_HOOK)
        self.work = self.folder / "work"
        kept = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
        self.env = {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": os.pathsep.join((str(self.folder / "site"), str(ROOT))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "QUIET_LOG": str(self.folder / "audit.log"),
        }
        if cache:
            self.env["RESNEST_HOME"] = str(self.folder / "cache")

    def run(self, *commands: Command, **env: str) -> Seen:
        """Run commands of `resnest` in one process, from the first to the last."""
        words = json.dumps([[str(word) for word in command] for command in commands])
        seen = self.python(_DRIVER, words, **env)
        *_, last = seen.stdout.rstrip().splitlines() or [""]
        seen.codes = json.loads(last) if last.startswith("[") else seen.codes
        return seen

    def python(self, program: str, *arguments: str, **env: str) -> Seen:
        """Run a Python program."""
        (self.folder / "audit.log").unlink(missing_ok=True)
        trace = self.folder / "strace.log"
        command = [*_unshared(), *_traced(trace), sys.executable, "-c", program, *arguments]
        done = subprocess.run(
            command, cwd=self.work, env=self.env | env, capture_output=True, text=True,
            timeout=900, check=False,
        )  # fmt: skip
        contacts, writes = _read_audit(self.folder / "audit.log")
        if trace.exists():
            native = _read_trace(trace, self.work)
            contacts, writes = contacts + native[0], writes + native[1]
        own = (*_DEVICES, f"{self.folder}/")
        strays = [path for path in dict.fromkeys(writes) if not f"{path}/".startswith(own)]
        found = [[str(p.relative_to(top)) for p in sorted(top.rglob("*")) if not p.is_dir()
                  or not any(p.iterdir())]
                 for top in (self.folder / "home", self.folder / "tmp")]  # fmt: skip
        return Seen([done.returncode], done.stdout, done.stderr, contacts, strays, *found)


@cache
def _works(*command: str) -> bool:
    """Whether a program can be run here: it may be missing, or forbidden in a container."""
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _unshared() -> list[str]:
    return next((c for c in (["unshare", "-n"], ["unshare", "-rn"]) if _works(*c, "true")), [])


def is_traced() -> bool:
    """Whether native code is recorded, too."""
    return _works("strace", "-f", "-o", os.devnull, "true")


def _traced(log: Path) -> list[str]:
    if not is_traced():
        return []
    calls = f"trace=network,{_CALLS}"
    return ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-e", calls, "-e", "signal=none",
            "-s", "4096", "-o", str(log)]  # fmt: skip


def _read_audit(log: Path) -> tuple[list[str], list[str]]:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    both = [[line.partition(" ")[2] for line in lines if line.startswith(kind)]
            for kind in ("contact", "write")]  # fmt: skip
    return both[0], both[1]


def _read_trace(log: Path, work: Path) -> tuple[list[str], list[str]]:
    """The addresses of IP that were tried, and the paths that were written or made."""
    contacts, writes = [], []
    for line in log.read_text(errors="replace").splitlines():
        if re.search(r"(connect|send\w+|bind)\(.*sa_family=AF_INET", line):
            contacts.append(line.split("{sa_family=", 1)[1].split("}")[0])
        elif _WRITES.search(line):
            at = re.search(r"AT_FDCWD<(.*?)>|\(\d+<(/.*?)>", line)
            start = next(filter(None, at.groups())) if at else str(work)
            paths = [os.path.normpath(os.path.join(start, p)) for p in re.findall('"(.*?)"', line)]
            writes += paths[-1:] if "symlink" in line or "link(" in line else paths
    return contacts, writes
