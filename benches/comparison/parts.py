"""What is sent of a large file twice: after a kill in the middle, and where only a part has changed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .relay import Relay
from .session import Session
from .tools import Tool

MIB = 1 << 20
Table = list[list[str]]


def make(path: Path, size: int) -> None:
    """A file of bytes that nothing can guess."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def interrupted(session: Session, relay: Relay, tools: Sequence[Tool], size: int) -> Table:
    """MiB that pass where a run is killed half-way and run again, upward and downward."""
    source = session.root / "cut" / "large"
    make(source, size)
    table = [["killed half-way, then run again", *(tool.name for tool in tools)]]
    up, down = [f"{size // MIB} MiB up, MiB sent"], [f"{size // MIB} MiB down, MiB fetched"]
    for tool in tools:
        print(f"interrupted: {tool.name}", file=sys.stderr, flush=True)
        place, target = f"{session.bucket_name}/cut-{tool.name}", session.root / "cut-target"
        session.forget()
        up.append(_cut(session, relay.sent, tool, tool.up_again(source.parent, place), size, relay))
        target.mkdir()
        command = tool.down_again(place, target)
        down.append(_cut(session, relay.received, tool, command, size, relay))
        same = subprocess.run(["cmp", source, target / "large"], check=False).returncode == 0
        if not same:
            sys.exit(f"{tool.name} did not bring the file back whole")
        shutil.rmtree(target)
        session.empty(place)
    shutil.rmtree(source.parent)
    return [*table, up, down]


def _cut(
    session: Session,
    passed: Callable[[], int],
    tool: Tool,
    command: list[str],
    size: int,
    relay: Relay,
) -> str:
    relay.forget()
    process = _start(session, tool, command)
    while passed() < size // 2 and process.poll() is None:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if _start(session, tool, command).wait() != 0:
        return "failed"
    return f"{passed() / MIB:,.0f}"


def _start(session: Session, tool: Tool, command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=session.environment(tool),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(os.urandom(MIB))


def _edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(4096))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - MIB)


def _insert(path: Path) -> None:
    longer = path.with_suffix(".new")
    with longer.open("wb") as file, path.open("rb") as old:
        file.write(os.urandom(4096))
        shutil.copyfileobj(old, file, MIB)
    longer.rename(path)


def _rewrite(path: Path) -> None:
    make(path, path.stat().st_size // MIB * MIB)


CHANGES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda _: None,
    "1 MiB appended": _append,
    "4 KiB changed in the middle": _edit,
    "1 MiB cut off": _truncate,
    "4 KiB inserted at the front": _insert,
    "all of it rewritten": _rewrite,
}


def changed(session: Session, relay: Relay, tools: Sequence[Tool], size: int) -> Table:
    """MiB that are sent where a file that was sent has changed."""
    table = [[f"of {size // MIB} MiB changed", *(f"{tool.name}, MiB" for tool in tools)]]
    rows = {name: [name] for name in CHANGES}
    for tool in tools:
        print(f"changed: {tool.name}", file=sys.stderr, flush=True)
        source, place = session.root / "changed" / "large", f"{session.bucket_name}/changed"
        make(source, size)
        session.forget()
        command = list(tool.again(source.parent, place).values())[-1]
        _start(session, tool, command).wait()
        for name, change in CHANGES.items():
            change(source)
            relay.forget()
            done = _start(session, tool, command).wait() == 0
            sent = f"{relay.sent() / MIB:,.1f}"
            is_right = done and _holds(session, place, source)
            rows[name].append(sent if is_right else f"{sent}, WRONG")
        shutil.rmtree(source.parent)
        session.empty(place)
    return [*table, *rows.values()]


def _holds(session: Session, place: str, source: Path) -> bool:
    """True where the object is what the file is."""
    command = [session.haul.program, "cat", f"s3://{place}/large"]
    environment = session.environment(session.haul)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as cat:
        compared = subprocess.run(["cmp", "-s", "-", source], stdin=cat.stdout, check=False)
    return compared.returncode == 0
