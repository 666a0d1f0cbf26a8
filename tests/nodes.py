"""Several Ray nodes on one machine, as apart as machines are (Linux, as root).

Each node has a network namespace with an address of its own on a common bridge, and a file
system of its own (tmpfs) for Ray's session and temporary files; they share storage through S3.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
GCS_PORT = 6379
OBJECT_STORE_BYTES = 80 << 20
DISK, BALLAST = "2g", "1500m"
"""Of a node's own file system, and what leaves less of it than training spares."""
STARTED = "Ray runtime started"
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}
"""A node that does not answer for five seconds is dead; Ray's own default is half a minute."""


def unavailable() -> str | None:
    """Why there can be no such nodes here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    missing = [name for name in ("ip", "unshare", "nsenter", "mount") if not shutil.which(name)]
    if missing:
        return f"no {', '.join(missing)} (iproute2, util-linux)"
    name = f"rb{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return "this kernel makes no network namespaces"
    run("ip", "netns", "del", name)
    return None


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass(kw_only=True)
class Node:
    """One node: its namespace, its link and the process of `ray start --block`."""

    name: str
    address: str
    folder: Path
    log: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self, head: Node | None) -> None:
        """Join the cluster of `head`, or be the head; waits until Ray says so."""
        place = (
            f"--address={head.address}:{GCS_PORT}"
            if head
            else f"--head --port={GCS_PORT} --temp-dir={self.folder}/ray --dashboard-host=127.0.0.1"
        )
        ray = Path(sys.executable).parent / "ray"
        script = (
            f"mount -t tmpfs -o size={DISK} tmpfs {self.folder} && mkdir {self.folder}/tmp && "
            f"exec {ray} start {place} --node-ip-address={self.address} --num-cpus=1 "
            f"--object-store-memory={OBJECT_STORE_BYTES} --disable-usage-stats --block"
        )
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, "unshare", "--mount", "sh", "-c", script],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**self.environment, "TMPDIR": f"{self.folder}/tmp"},
                start_new_session=True,
            )
        until = time.monotonic() + 60
        while STARTED not in (told := self.log.read_text(errors="replace")):
            assert time.monotonic() < until, told
            assert self.process.poll() is None, told
            time.sleep(0.1)

    def inside(self, *command: object) -> list[str]:
        """A command line that runs there."""
        assert self.process is not None
        return ["nsenter", f"--target={self.process.pid}", "--net", "--mount", *map(str, command)]

    def processes(self, title: str = "") -> list[psutil.Process]:
        """What runs there, by the start of its command."""
        told = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        found = []
        for pid in told.stdout.split():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        return found

    def kill(self) -> None:
        """Everything there at once, as when the power fails."""
        while there := self.processes():
            for process in there:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.1)
        if self.process is not None:
            self.process.wait(10)

    def link(self, state: str) -> None:
        """Pull the cable (`down`), or put it back (`up`)."""
        run("ip", "link", "set", f"{self.name}h", state)


@dataclass(kw_only=True)
class Cluster:
    """A head, which drivers run on, and other nodes; all with one CPU."""

    bridge: str
    gateway: str
    """The address of this machine on the bridge: what all nodes can reach."""
    mount: Path
    """The same path on every node, and on each a file system of its own. Short: Ray puts sockets
    below it, whose names have at most 107 bytes."""
    nodes: list[Node] = field(default_factory=list)

    @property
    def head(self) -> Node:
        """The node of the GCS and of the drivers."""
        return self.nodes[0]

    def command(self, *arguments: object) -> subprocess.Popen[str]:
        """`ray-brats …` on the head, against the cluster."""
        return subprocess.Popen(
            self.head.inside(sys.executable, "-m", "ray_brats.cli", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={
                **self.head.environment,
                "RAY_ADDRESS": f"{self.head.address}:{GCS_PORT}",
                "TMPDIR": f"{self.head.folder}/tmp",
            },
        )


@contextlib.contextmanager
def bridge() -> Iterator[Cluster]:
    """A network without nodes yet; all that was started in it ends with it."""
    name = f"rb{uuid.uuid4().hex[:6]}"
    subnet = f"10.{200 + os.getpid() % 50}.{int(name[2:4], 16)}"
    mount = Path(tempfile.mkdtemp(prefix="rb"))
    cluster = Cluster(bridge=name, gateway=f"{subnet}.1", mount=mount)
    run("ip", "link", "add", name, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{cluster.gateway}/24", "dev", name)
        run("ip", "link", "set", name, "up")
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()
            run("ip", "netns", "del", node.name)
        run("ip", "link", "del", name)
        mount.rmdir()


def start(
    cluster: Cluster, count: int, folder: Path, environment: Mapping[str, str]
) -> Sequence[Node]:
    """So many nodes, the first of them the head."""
    known = {**os.environ, **HEALTH, **environment, "PYTHONPATH": str(ROOT)}
    subnet = cluster.gateway.rpartition(".")[0]
    for number in range(count):
        node = Node(
            name=f"{cluster.bridge}{number}",
            address=f"{subnet}.{11 + number}",
            folder=cluster.mount,
            log=folder / f"node{number}.log",
            environment=known,
        )
        run("ip", "netns", "add", node.name)
        cluster.nodes.append(node)
        run(
            *("ip", "link", "add", f"{node.name}h", "type", "veth", "peer"),
            *("name", "eth0", "netns", node.name),
        )
        run("ip", "link", "set", f"{node.name}h", "master", cluster.bridge, "up")
        for words in (
            f"addr add {node.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {cluster.gateway}",
        ):
            run("ip", "-n", node.name, *words.split())
        node.start(cluster.head if number else None)
    return cluster.nodes
