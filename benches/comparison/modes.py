"""What can be measured: transfers, no-ops of very many keys, and the progress bars."""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from .chart import draw
from .measure import Usage
from .parts import changed, interrupted
from .relay import relayed
from .report import Medians, Table, figures_table, ratios_table
from .server import Server, memory_server, real_server
from .session import Cell, Figures, Session, summary
from .tools import Haul, Juicefs, Rclone, S3cmd, S5cmd, Tool, find_peer
from .workloads import Workload, large, make_synthetic, mixed, small

BUCKET, SYNTHETIC = f"bench-{os.getpid()}", "synthetic"
FEW_KEYS = 20_000
BARS, NO_BARS = "--progress", "--no-progress"
KINDS: tuple[type[Tool], ...] = (Haul, Juicefs, S5cmd, Rclone, S3cmd)
# One request at a time is no rival in speed.
TOOL_NAMES = tuple(kind.name for kind in KINDS if kind is not S3cmd)
# So slow that a kill in the middle is one.
RELAY_RATE = 200_000_000
# Each tool's own default, which haul finds out as it goes; but rclone's would be 4.
IN_FLIGHT = {"haul": None, "juicefs": 10, "s5cmd": 256, "rclone": 64, "s3cmd": 1}
# Where each answer is far away, 10 would be all that is measured. On loopback more of them cost
# juicefs CPU and memory, and bring nothing.
FAR_IN_FLIGHT = IN_FLIGHT | {"juicefs": 64}


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    haul: str
    s3server: str
    server: str
    tools: tuple[str, ...]
    runs: int
    files: int
    large_mib: int
    keys: int
    delay_ms: int

    @property
    def has_targets(self) -> bool:
        return self.server == "memory" and self.delay_ms == 0

    def open_server(self) -> AbstractContextManager[Server]:
        if self.server == "memory":
            return memory_server(self.s3server, delay_ms=self.delay_ms)
        return real_server(self.server)

    def make_tools(self, names: Sequence[str], server: Server) -> list[Tool]:
        in_flight = FAR_IN_FLIGHT if self.delay_ms else IN_FLIGHT
        beside = Path(sys.executable).parent
        tools: list[Tool] = []
        for kind in KINDS:
            if kind.name in names:
                program = self.haul if kind is Haul else find_peer(kind.name, beside)
                tools.append(kind(program, server, in_flight[kind.name]))
        return tools


@dataclass(frozen=True)
class Result:
    """What a mode found, and by what."""

    title: str
    server: Server
    versions: dict[str, str]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    chart: str | None = None


def transfers(options: Options, root: Path) -> Result:
    """Uploads, no-ops and downloads of small, large and mixed files."""
    workloads = [small(options.files), large(options.large_mib)]
    # Far away, the mixture tells nothing that the others do not.
    workloads += [] if options.delay_ms else [mixed()]
    figures: Figures = {}
    with options.open_server() as server:
        tools = options.make_tools(options.tools, server)
        session = Session(root, server, tools[0], BUCKET)
        with session.bucket():
            for workload in workloads:
                figures.update(session.transfers(workload, tools, options.runs))
    medians = summary(figures)
    titles = {job: title for workload in workloads for job, title in workload.titles.items()}
    tables = [ratios_table(medians, titles, options.has_targets), figures_table(medians, titles)]
    chart = draw(medians, titles) if options.has_targets and len(tools) > 1 else None
    notes = [f"{_runs(options, tools)}; {_in_flight(tools)}"]
    return Result(f"Transfers, {server.title}", server, _versions(tools), tables, notes, chart)


def _runs(options: Options, tools: Sequence[Tool]) -> str:
    once = [f"{tool.name} 1" for tool in tools if tool.runs_once]
    return ", ".join([f"runs: {options.runs}", *once])


def _in_flight(tools: Sequence[Tool]) -> str:
    counts = (f"{tool.name} {tool.in_flight or 'as it sees fit'}" for tool in tools)
    return f"in flight at once: {', '.join(counts)}"


def _versions(tools: Sequence[Tool]) -> dict[str, str]:
    return {tool.name: tool.version() for tool in tools}


def million(options: Options, root: Path) -> Result:
    """No-ops at two numbers of keys; haul's first run finds by content that all is there."""
    figures: Figures = {}
    made = 0
    for keys in (FEW_KEYS, options.keys):
        make_synthetic(root / SYNTHETIC, made, keys)
        made = keys
        with memory_server(options.s3server, synthetic=keys) as server:
            tools = options.make_tools(("haul", "juicefs", "rclone"), server)
            session = Session(root, server, tools[0], BUCKET)
            figures.update(_no_ops(session, tools, f"{keys:,} keys", options.runs))
    shutil.rmtree(root / SYNTHETIC)
    medians = summary(figures)
    tables = [ratios_table(medians, {}, with_targets=False), figures_table(medians, {})]
    notes = [f"{_runs(options, tools)}; files of 16 bytes, 1,000 in each directory"]
    return Result("Nothing to do", server, _versions(tools), tables, notes)


def _no_ops(session: Session, tools: Sequence[Tool], job: str, runs: int) -> Figures:
    source = session.root / SYNTHETIC
    session.forget()
    first = session.measure(session.haul, session.haul.up(source, SYNTHETIC))
    figures: Figures = {Cell(job, "haul, first run"): [first]}
    for number in range(runs):
        for tool in tools:
            if tool.runs_once and number > 0:
                continue
            # Of two ways, the one that asks for no object by itself.
            name, command = list(tool.again(source, SYNTHETIC).items())[-1]
            figures.setdefault(Cell(job, name), []).append(session.measure(tool, command))
    return figures


def progress(options: Options, root: Path) -> Result:
    """Uploads by haul with its bars on a terminal, and without."""
    workloads = [small(options.files), large(options.large_mib), mixed()]
    figures: Figures = {}
    with options.open_server() as server:
        session = Session(root, server, options.make_tools(("haul",), server)[0], BUCKET)
        with session.bucket():
            for workload in workloads:
                figures.update(_progress_rounds(session, workload, options.runs))
    medians = summary(figures)
    tables = [_progress_table(medians), figures_table(medians, {})]
    notes = [f"runs: {options.runs}; stderr is a terminal"]
    return Result("Progress bars", server, _versions([session.haul]), tables, notes)


def parts(options: Options, root: Path) -> Result:
    """What is sent of a large file after a kill, and of one that has changed in part."""
    size = options.large_mib << 20
    with real_server(options.server) as server, relayed(server, RELAY_RATE) as (seen, relay):
        tools = options.make_tools((*TOOL_NAMES, "s3cmd"), seen)
        session = Session(root, seen, tools[0], BUCKET)
        with session.bucket():
            tables = [
                interrupted(session, relay, tools, size),
                changed(session, relay, tools, size),
            ]
    notes = [f"1 run; {RELAY_RATE // 10**6} MB/s each way, counted on the way; {_in_flight(tools)}"]
    title = f"Sent once more, {server.title}"
    return Result(title, server, _versions(tools), tables, notes)


def _progress_rounds(session: Session, workload: Workload, runs: int) -> Figures:
    source = session.root / workload.name
    workload.make(source)
    job = f"{workload.title} up"
    figures: Figures = {Cell(job, f"haul {flag}"): [] for flag in (BARS, NO_BARS)}
    for number in range(runs + 1):
        for flag in (BARS, NO_BARS):
            usage = _upload_with(session, source, flag)
            if number > 0:
                figures[Cell(job, f"haul {flag}")].append(usage)
    shutil.rmtree(source)
    return figures


def _upload_with(session: Session, source: Path, flag: str) -> Usage:
    place = f"{session.bucket_name}/{source.name}"
    session.forget()
    command = [session.haul.program, "sync", flag, str(source), f"s3://{place}"]
    usage = session.measure(session.haul, command, on_terminal=True)
    session.empty(place)
    return usage


def _progress_table(medians: Medians) -> Table:
    table = [["the bars take", "CPU s", "of CPU"]]
    for job in dict.fromkeys(cell.job for cell in medians):
        bars, none = (medians[Cell(job, f"haul {flag}")].cpu_seconds for flag in (BARS, NO_BARS))
        table.append([job, f"{bars - none:+.2f}", f"{(bars - none) / none:+.1%}"])
    return table
