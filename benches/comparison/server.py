"""The S3 server that is measured against: one in memory, or Ceph RGW or SeaweedFS, on loopback."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts/servers.sh")


@dataclass(frozen=True)
class Server:
    """Where it answers, and the environment that its clients are to have."""

    title: str
    environment: dict[str, str]
    counts: bool

    @property
    def endpoint(self) -> str:
        return self.environment["AWS_ENDPOINT_URL"]

    @property
    def address(self) -> str:
        return self.endpoint.removeprefix("http://")

    def forget_requests(self) -> None:
        """Begins to count anew."""
        if self.counts:
            self._ask("POST", "/_reset")

    def requests(self) -> int | None:
        """How many there were since then, where that is known."""
        if not self.counts:
            return None
        counts: dict[str, int] = json.loads(self._ask("GET", "/_counters"))["requests"]
        return sum(counts.values())

    def _ask(self, method: str, path: str) -> bytes:
        connection = HTTPConnection(self.address)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def memory_server(program: str, delay_ms: int = 0, synthetic: int = 0) -> Iterator[Server]:
    """`benches/s3server`, with so many keys in its bucket `synthetic`."""
    flags = ["--port", "0", "--delay-ms", str(delay_ms), "--synthetic", str(synthetic)]
    process = subprocess.Popen([program, *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout, "it is a pipe"
        address = process.stdout.readline().removeprefix("listening on ").strip()
        title = f"in memory, {delay_ms} ms away" if delay_ms else "in memory"
        yield Server(title, _environment(f"http://{address}", "bench", "bench"), counts=True)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def real_server(name: str) -> Iterator[Server]:
    """Ceph RGW or SeaweedFS, installed where it is missing, from `scripts/servers.sh`."""
    base = ROOT / "target/servers"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench.", dir=base) as folder:
        environment = {**os.environ, "HAUL_SERVERS_DIR": folder}

        def script(*arguments: str) -> str:
            command = [SCRIPT, *arguments]
            return subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout

        script("install", name)
        try:
            script("start", name)
            words = dict(re.findall(r"export (\w+)=(\S+)", script("env", name)))
            keys = words["AWS_ACCESS_KEY_ID"], words["AWS_SECRET_ACCESS_KEY"]
            title = {"rgw": "Ceph RGW", "seaweed": "SeaweedFS"}[name]
            yield Server(title, _environment(words["AWS_ENDPOINT_URL"], *keys), counts=False)
        finally:
            script("stop", name)


def _environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
    }
