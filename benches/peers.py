#!/usr/bin/env python3
"""haul beside s5cmd, juicefs and rclone: CPU seconds, wall seconds and peak memory of each process.

    make bench-peers                           small, large and mixed files, against targets
    make bench-peers ARGS="--delay-ms 20"      ... where each answer takes so long
    make bench-peers ARGS="--server rgw"       ... on Ceph RGW (or seaweed) instead of in memory
    make bench-peers ARGS=--million            nothing to do for 20,000 and for 1,000,000 keys
    make bench-peers ARGS=--progress           what haul's progress bars take
    make bench-peers ARGS=--parts              what is sent twice of large files (Ceph RGW)

With --write the result goes into benches/RESULTS.md as well, and that of the first becomes
benches/results.svg.

scripts/bench-peers.sh builds haul and the server in memory, installs the others from PyPI and runs
this with the Python that they are beside; BENCH_HAUL and BENCH_S3SERVER name what it built. Data,
targets and what haul remembers are on tmpfs where that has room.
"""

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from comparison import report
from comparison.modes import TOOL_NAMES, Options, Result, million, parts, progress, transfers

TMPFS = Path("/dev/shm")
# A file of a few bytes takes a page and an inode.
TMPFS_FILE_BYTES = 5500
GIB = 1 << 30


def parse() -> argparse.Namespace:
    """The command line; what depends on the mode is None where it was not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--million", action="store_true", help="measure no-ops of many keys")
    mode.add_argument("--progress", action="store_true", help="measure the progress bars")
    mode.add_argument("--parts", action="store_true", help="measure kills and changes in part")
    mode.add_argument("--delay-ms", type=int, default=0, help="what each answer waits")
    parser.add_argument("--server", choices=("memory", "rgw", "seaweed"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--files", type=int, help="small files (20,000; 5,000 with --delay-ms)")
    parser.add_argument("--large-mib", type=int, help="the large file (2048; 512 with --delay-ms)")
    parser.add_argument("--keys", type=int, default=1_000_000, help="of --million")
    parser.add_argument("--tools", default=",".join(TOOL_NAMES), help="%(default)s")
    parser.add_argument("--write", action="store_true", help="put the result into RESULTS.md")
    arguments = parser.parse_args()
    arguments.server = arguments.server or ("rgw" if arguments.parts else "memory")
    if arguments.parts and arguments.server == "memory":
        parser.error("the server in memory copies no parts")
    if arguments.server != "memory" and (arguments.delay_ms or arguments.million):
        parser.error("only the server in memory can do that")
    if arguments.runs < 1:
        parser.error("--runs takes 1 or more")
    if not set(TOOL_NAMES) >= set(arguments.tools.split(",")) >= {"haul"}:
        parser.error(f"--tools takes haul and some of {','.join(TOOL_NAMES)}")
    return arguments


def resolve(arguments: argparse.Namespace) -> Options:
    """The options, with what was not given as the mode has it."""
    is_far = bool(arguments.delay_ms) or arguments.parts
    return Options(
        haul=built("BENCH_HAUL"),
        s3server=built("BENCH_S3SERVER"),
        server=arguments.server,
        tools=tuple(arguments.tools.split(",")),
        runs=arguments.runs,
        files=arguments.files or (5_000 if is_far else 20_000),
        large_mib=arguments.large_mib or (512 if is_far else 2048),
        keys=arguments.keys,
        delay_ms=arguments.delay_ms,
    )


def built(variable: str) -> str:
    """What scripts/bench-peers.sh built."""
    return os.environ.get(variable) or sys.exit(f"{variable} is not set: run `make bench-peers`")


def choose_base(needed_bytes: int) -> Path | None:
    """tmpfs where it exists and has room, in memory as well; else None, for the usual place."""
    if not TMPFS.is_dir():
        return None
    available_kib = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    room = min(shutil.disk_usage(TMPFS).free, available_kib << 10)
    if room >= needed_bytes:
        return TMPFS
    print("tmpfs has no room: data is on disk, and the figures are the disk's", file=sys.stderr)
    return None


def needed_bytes(arguments: argparse.Namespace, options: Options) -> int:
    """Of memory: the source, what the server keeps, the target, and the processes."""
    if arguments.million:
        return options.keys * TMPFS_FILE_BYTES + 2 * GIB
    return 3 * options.large_mib * (1 << 20) + GIB


def show(result: Result, where: str, write: bool) -> None:
    """Prints the result, and puts it where it is kept."""
    command = shlex.join(sys.argv[1:])
    typed = "make bench-peers" + (f" ARGS={shlex.quote(command)}" if command else "")
    lines = [f"`{typed}`, data on {where}", *result.notes]
    facts = report.circumstances(result.server.title, result.versions, lines)
    print("\n\n".join([facts, *map(report.as_text, result.tables)]))
    if not write:
        return
    chart = ["![CPU of each tool as a multiple of haul's](results.svg)"] if result.chart else []
    tables = map(report.as_markdown, result.tables)
    report.write_section(result.title, "\n\n".join([facts, *chart, *tables]))
    if result.chart:
        report.CHART.write_text(result.chart)


def main() -> None:
    """Measures in a directory that is gone afterwards, however this ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = parse()
    options = resolve(arguments)
    modes = {"million": million, "progress": progress, "parts": parts}
    mode = next((mode for name, mode in modes.items() if getattr(arguments, name)), transfers)
    base = choose_base(needed_bytes(arguments, options))
    with tempfile.TemporaryDirectory(prefix="haul-bench.", dir=base) as root:
        result = mode(options, Path(root))
    show(result, "tmpfs" if base else "disk", arguments.write)


if __name__ == "__main__":
    main()
