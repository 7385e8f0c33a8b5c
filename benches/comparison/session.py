"""Rounds of measured runs, in a directory of their own that is also everybody's home."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .measure import Usage, measure, medians
from .server import Server
from .tools import Tool
from .workloads import AGAIN, DOWN, UP, Workload


@dataclass(frozen=True)
class Cell:
    """What a figure is of: `small up` by `juicefs`."""

    job: str
    tool: str


Figures = dict[Cell, list[Usage]]


def summary(figures: Figures) -> dict[Cell, Usage]:
    """The median of each cell, in the order in which they were measured."""
    return {cell: medians(usages) for cell, usages in figures.items()}


class Session:
    """Tools on one server, and the directory where all that they touch is."""

    def __init__(self, root: Path, server: Server, haul: Tool, bucket_name: str) -> None:
        self.root, self.server, self.haul = root, server, haul
        self.bucket_name = bucket_name
        self.state = root / "state"
        (root / "home").mkdir(exist_ok=True)

    def environment(self, tool: Tool) -> dict[str, str]:
        """All that a tool gets to see of the environment."""
        own = {
            "PATH": os.defpath,
            "HOME": str(self.root / "home"),
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "HAUL_STATE_DIR": str(self.state),
        }
        return own | self.server.environment | tool.environment()

    def measure(self, tool: Tool, command: list[str], on_terminal: bool = False) -> Usage:
        """One run of a tool, with the requests that it sent."""
        self.server.forget_requests()
        usage = measure(command, self.environment(tool), on_terminal)
        return replace(usage, requests=self.server.requests())

    def forget(self) -> None:
        """Takes from haul what it remembers."""
        shutil.rmtree(self.state, ignore_errors=True)

    @contextmanager
    def bucket(self) -> Iterator[None]:
        """The bucket, as long as it is needed."""
        self._haul("mb", f"s3://{self.bucket_name}")
        yield
        self._haul("rb", f"s3://{self.bucket_name}")

    def empty(self, place: str) -> None:
        """Removes all objects of a place."""
        self._haul("rm", "-q", "-r", f"s3://{place}")

    def _haul(self, *arguments: str) -> None:
        command = [self.haul.program, *arguments]
        subprocess.run(command, check=True, env=self.environment(self.haul), stdout=sys.stderr)

    def transfers(self, workload: Workload, tools: Sequence[Tool], runs: int) -> Figures:
        """Each tool in turn, `runs` times after one that does not count; some, only once."""
        source = self.root / workload.name
        workload.make(source)
        figures: Figures = {}
        self._round(workload, source, [tool for tool in tools if not tool.runs_once], is_first=True)
        for number in range(runs):
            print(f"{workload.title}: run {number + 1} of {runs}", file=sys.stderr, flush=True)
            # Whoever comes after another finds what that one left: a warm or a busy machine.
            begin = number % len(tools)
            order = [*tools[begin:], *tools[:begin]]
            due = [tool for tool in order if number == 0 or not tool.runs_once]
            for cell, usage in self._round(workload, source, due).items():
                figures.setdefault(cell, []).append(usage)
        shutil.rmtree(source)
        jobs = workload.titles
        names = [name for tool in tools for name in tool.again(source, "")]
        cells = [Cell(job, name) for job in jobs for name in names]
        return {cell: figures[cell] for cell in cells if cell in figures}

    def _round(
        self, workload: Workload, source: Path, tools: Sequence[Tool], is_first: bool = False
    ) -> dict[Cell, Usage]:
        found: dict[Cell, Usage] = {}
        for tool in tools:
            place, target = f"{self.bucket_name}/{workload.name}-{tool.name}", self.root / "target"
            for work in workload.works:
                # What haul remembers of the upload is for the no-op alone.
                if work != AGAIN:
                    self.forget()
                for name, command in _commands(tool, work, source, place, target).items():
                    found[Cell(workload.job(work), name)] = self.measure(tool, command)
            _compare(source, target, tool, thoroughly=is_first or tool.runs_once)
            shutil.rmtree(target)
            self.empty(place)
        return found


def _commands(
    tool: Tool, work: str, source: Path, place: str, target: Path
) -> dict[str, list[str]]:
    if work == AGAIN:
        return tool.again(source, place)
    commands = {UP: tool.up(source, place), DOWN: tool.down(place, target)}
    return {tool.name: commands[work]}


def _compare(source: Path, target: Path, tool: Tool, thoroughly: bool) -> None:
    """That what went up and came down is the same: each byte, or the names and sizes alone."""
    if thoroughly:
        same = subprocess.run(["diff", "-r", "-q", source, target], check=False).returncode == 0
    else:
        same = _sizes(source) == _sizes(target)
    if not same:
        sys.exit(f"{tool.name} did not bring {source.name} back whole")


def _sizes(directory: Path) -> dict[str, int]:
    sizes = {}
    for folder, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(folder, file)
            sizes[os.path.relpath(path, directory)] = os.stat(path).st_size
    return sizes
