"""Tables of figures, for a terminal and in Markdown, and what they were measured on."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from .measure import Usage
from .server import ROOT
from .session import Cell
from .targets import PEAK_MIB, RATIOS, Measure

Table = list[list[str]]
Medians = dict[Cell, Usage]
PEERS = ("juicefs", "s5cmd")
MEASURES: tuple[Measure, Measure] = ("CPU", "wall")
RESULTS = ROOT / "benches/RESULTS.md"
CHART = ROOT / "benches/results.svg"
HEADING = """# haul beside its peers

Made by `make bench-peers ARGS=--write`, each section by the command that it names. CPU seconds (of
user and system), wall seconds and peak memory are the client's own; medians of interleaved
transfers after one that does not count; of rclone, one that does. haul hashes, signs and verifies
every byte.
"""


def figures_table(medians: Medians, titles: dict[str, str]) -> Table:
    """A line for each cell."""
    table = [["work", "tool", "CPU s", "wall s", "peak MiB", "requests"]]
    last_job = ""
    for cell, usage in medians.items():
        title = titles.get(cell.job, cell.job) if cell.job != last_job else ""
        last_job = cell.job
        requests = "" if usage.requests is None else f"{usage.requests:,.0f}"
        seconds = [f"{usage.cpu_seconds:.2f}", f"{usage.wall_seconds:.2f}"]
        table.append([title, cell.tool, *seconds, f"{usage.peak_mib:.0f}", requests])
    return table


def ratios_table(medians: Medians, titles: dict[str, str], with_targets: bool) -> Table:
    """haul by its peers, a line for each job, with the limit in brackets where there is one."""
    peers = [peer for peer in PEERS if any(cell.tool == peer for cell in medians)]
    columns = [(measure, peer) for peer in peers for measure in MEASURES]
    table = [["haul by", *(f"{peer}, {measure}" for measure, peer in columns), "haul's peak MiB"]]
    for job in dict.fromkeys(cell.job for cell in medians):
        haul = medians[Cell(job, "haul")]
        line = [titles.get(job, job)]
        for measure, peer in columns:
            found = _figure(haul, measure) / _figure(medians[Cell(job, peer)], measure)
            limit = RATIOS.get((job, measure, peer)) if with_targets else None
            line.append(_judged(f"{found:.2f}", found, limit))
        limit = PEAK_MIB.get(job) if with_targets else None
        table.append([*line, _judged(f"{haul.peak_mib:.0f}", haul.peak_mib, limit)])
    return table


def _figure(usage: Usage, measure: Measure) -> float:
    return {"CPU": usage.cpu_seconds, "wall": usage.wall_seconds}[measure]


def _judged(text: str, found: float, limit: float | None) -> str:
    if limit is None:
        return text
    return f"{text} (≤ {limit:g})" if found <= limit else f"{text} (≤ {limit:g}: missed)"


def as_text(table: Table) -> str:
    """Columns side by side, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = list(zip(row, widths, strict=True))
        words = [text.ljust(width) for text, width in cells[: _words(table)]]
        numbers = [text.rjust(width) for text, width in cells[_words(table) :]]
        lines.append("  ".join(words + numbers).rstrip())
    return "\n".join(lines)


def as_markdown(table: Table) -> str:
    """The same with bars."""
    words = _words(table)
    rule = ["---"] * words + ["--:"] * (len(table[0]) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], rule, *table[1:]])


def _words(table: Table) -> int:
    """How many columns hold no numbers: the first, and that of the tools."""
    return 2 if table[0][1] == "tool" else 1


def circumstances(server: str, versions: dict[str, str], notes: Sequence[str]) -> str:
    """Date, machine, versions and whatever else a reader must know."""
    versions = {"haul": f"{versions['haul']} ({_commit()})", **_without_haul(versions)}
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [f"{date.today()}; {machine()}", f"server: {server}; {tools}", *notes]
    return "\n".join(f"- {line}" for line in lines)


def _without_haul(versions: dict[str, str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name != "haul"}


def machine() -> str:
    """Processor, cores, memory and kernel."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    processor = model[1] if model else platform.machine()
    gib = round(int(memory[1]) / 1024**2) if memory else 0
    cores = len(os.sched_getaffinity(0))
    return f"{processor}, {cores} cores, {gib} GiB, Linux {platform.release()}"


def _commit() -> str:
    """The commit that is checked out, and whether something else than results differs from it."""
    results = [f":!{path.relative_to(ROOT)}" for path in (RESULTS, CHART)]
    differs = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *results)
    return _git("rev-parse", "--short", "HEAD") + ("-dirty" if differs else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    told = subprocess.run(command, check=False, capture_output=True, text=True)
    return told.stdout.strip()


def write_section(title: str, body: str) -> None:
    """Puts a section into RESULTS.md, in place of an older one of that title."""
    old = RESULTS.read_text() if RESULTS.exists() else HEADING
    parts = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    sections = {part.splitlines()[0]: part.strip() for part in parts[1:]}
    sections[f"## {title}"] = f"## {title}\n\n{body.strip()}"
    RESULTS.write_text("\n\n".join([HEADING.strip(), *sections.values()]) + "\n")
