"""Runs a command and measures it: CPU, wall time and peak memory of that process alone."""

import fcntl
import os
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

LAUNCHER = str(Path(__file__).with_name("launcher.py"))
TERMINAL_ROWS, TERMINAL_COLUMNS = 40, 120


@dataclass(frozen=True)
class Usage:
    """What one run took; CPU is user and system together."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float
    requests: float | None = None


def medians(usages: list[Usage]) -> Usage:
    """The median of each figure on its own."""
    requests = [usage.requests for usage in usages if usage.requests is not None]
    return Usage(
        median(usage.cpu_seconds for usage in usages),
        median(usage.wall_seconds for usage in usages),
        median(usage.peak_mib for usage in usages),
        median(requests) if requests else None,
    )


def measure(command: list[str], environment: dict[str, str], on_terminal: bool = False) -> Usage:
    """Runs a command to its end, perhaps with a terminal as stderr; one that fails ends all."""
    with tempfile.TemporaryFile() as output:
        with _terminal() if on_terminal else nullcontext(output) as errors:
            code, user, system, wall, peak_kib = _launch(command, environment, output, errors)
        if code != 0:
            output.seek(0)
            tail = output.read()[-2000:].decode(errors="replace")
            sys.exit(f"{' '.join(command)}: exit {code:.0f}\n{tail}")
    return Usage(user + system, wall, peak_kib / 1024)


def _launch(
    command: list[str], environment: dict[str, str], output: IO[bytes], errors: IO[bytes] | int
) -> list[float]:
    reading, writing = os.pipe()
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", LAUNCHER, str(writing), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=[writing],
        start_new_session=True,
    )
    os.close(writing)
    try:
        with open(reading, encoding="ascii") as report:
            return [float(field) for field in report.read().split()]
    finally:
        # Only who interrupts this finds it still running, and the command with it.
        if launcher.poll() is None and sys.exc_info()[0]:
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


@contextmanager
def _terminal() -> Iterator[int]:
    """A terminal whose screen nobody looks at."""
    screen, terminal = os.openpty()
    size = struct.pack("HHHH", TERMINAL_ROWS, TERMINAL_COLUMNS, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    reader = threading.Thread(target=_drain, args=[screen])
    reader.start()
    try:
        yield terminal
    finally:
        os.close(terminal)
        reader.join()
        os.close(screen)


def _drain(screen: int) -> None:
    try:
        while os.read(screen, 65536):
            pass
    except OSError:  # how a terminal says that all its writers have gone
        pass
