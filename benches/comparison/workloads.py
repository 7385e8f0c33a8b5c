"""What there is to transfer. The same numbers make the same bytes, on any machine."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

UP, AGAIN, DOWN = "up", "no-op", "down"
MIB = 1 << 20
SMALL_BYTES = 4096
SMALL_FILES_PER_DIRECTORY = 500
MIXED_FILES, MIXED_MIB = 500, 384
# Of the logarithm of a size: a tenth of the files then holds half of the bytes.
MIXED_SIGMA = 1.5
SYNTHETIC_PER_DIRECTORY = 1000


@dataclass(frozen=True)
class Workload:
    """A directory to be made, and what is done with it."""

    name: str
    title: str
    works: tuple[str, ...]
    make: Callable[[Path], None]

    @property
    def titles(self) -> dict[str, str]:
        """What its jobs are called where there is room."""
        return {self.job(work): f"{self.title} {work}" for work in self.works}

    def job(self, work: str) -> str:
        """What one work with it is called where there is none."""
        return f"{self.name} {work}"


def small(files: int) -> Workload:
    """Many files, of which each takes a request."""

    def make(directory: Path) -> None:
        generator = random.Random(1)
        for number in range(files):
            folder = directory / f"d{number // SMALL_FILES_PER_DIRECTORY:03}"
            if number % SMALL_FILES_PER_DIRECTORY == 0:
                folder.mkdir(parents=True)
            (folder / f"f{number:06}").write_bytes(generator.randbytes(SMALL_BYTES))

    return Workload("small", f"{files:,} files of 4 KiB", (UP, AGAIN, DOWN), make)


def large(mib: int) -> Workload:
    """One file, in many parts."""

    def make(directory: Path) -> None:
        directory.mkdir()
        _write_random(directory / "file", mib * MIB, random.Random(2))

    title = f"one file of {mib // 1024} GiB" if mib % 1024 == 0 else f"one file of {mib} MiB"
    return Workload("large", title, (UP, DOWN), make)


def mixed() -> Workload:
    """Files of all sizes, as a dataset has them."""

    def make(directory: Path) -> None:
        directory.mkdir()
        generator = random.Random(3)
        shares = [generator.lognormvariate(0, MIXED_SIGMA) for _ in range(MIXED_FILES)]
        for number, share in enumerate(shares):
            size = round(share / sum(shares) * MIXED_MIB * MIB)
            _write_random(directory / f"f{number:03}", size, generator)

    return Workload("mixed", f"{MIXED_FILES} files of {MIXED_MIB} MiB", (UP, DOWN), make)


def _write_random(path: Path, size: int, generator: random.Random) -> None:
    with open(path, "wb") as file:
        for begin in range(0, size, MIB):
            file.write(generator.randbytes(min(MIB, size - begin)))


def make_synthetic(directory: Path, first: int, end: int) -> None:
    """Files `first..end` of the bucket `synthetic` of `benches/s3server`, by whole directories."""
    for number in range(first // SYNTHETIC_PER_DIRECTORY, end // SYNTHETIC_PER_DIRECTORY):
        folder = directory / f"d{number:03}"
        folder.mkdir(parents=True)
        # A million paths are too many to look up from the root.
        handle = os.open(folder, os.O_RDONLY)
        begin = number * SYNTHETIC_PER_DIRECTORY
        for file in range(begin, begin + SYNTHETIC_PER_DIRECTORY):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            target = os.open(f"f{file:07}", flags, dir_fd=handle)
            os.write(target, b"%016d" % file)
            os.close(target)
        os.close(handle)
