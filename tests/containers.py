"""Services of a compose file as processes, each with network, file system and user of its own. Not Docker: no image is pulled or built.

What a container would have, the kernel's namespaces give: an address on a network of the stack's own with names for addresses, a read-only
root with the volumes and folders in memory that the file names, a user without rights, the file's environment and nothing else of ours.
Instead of an image there is the machine's /usr and this checkout; `Image` says what an image would bring along.

Wants root, and iproute2 and util-linux as every Debian has them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

T = TypeVar("T")
NET = "10.213.77"
"""The first three numbers of the stack's addresses: reachable from its own namespaces only."""
CLONE_NEWNET = 0x40000000
VARIABLE = re.compile(r"\$\$|\$\{(\w+):-([^}]*)\}")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc")
STOP_S = 20.0
ONE_SHOT_S = 120.0


@dataclass(frozen=True)
class Image:
    """What stands in for an image.

    Args:
        user: the number of the user that runs.
        environ: what the image sets.
        paths: place -> folder of this machine that is seen there, read-only.
        files: path -> text of small files and programs.
        folders: made for the user, writable unless the service's root is read-only.
        entrypoint: what a command is handed to.
        command: what runs where the compose file says nothing.
    """

    user: int
    environ: Mapping[str, str]
    paths: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()


def interpolated(tree: Any, environ: Mapping[str, str]) -> Any:
    """A parsed compose file with its variables filled in.

    >>> interpolated({"a": ["${A:-x} ${B:-x}${C:-}", "$$C", 1]}, {"A": "1"})
    {'a': ['1 x', '$C', 1]}
    """
    match tree:
        case dict():
            return {name: interpolated(value, environ) for name, value in tree.items()}
        case list():
            return [interpolated(value, environ) for value in tree]
        case str():
            return VARIABLE.sub(lambda found: "$" if found[0] == "$$" else environ.get(found[1]) or found[2], tree)
    return tree


def inside(namespace: str, work: Callable[[], T]) -> T:
    """What `work` gives in a network namespace; threads and sockets that it makes stay there."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with Path(f"/run/netns/{namespace}").open("rb") as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")  # noqa: TRY301 - handed to the caller below
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - the caller's to handle
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


class Names:
    """A name server as Docker's: a service's name gives the addresses of all its replicas that run."""

    def __init__(self, namespace: str, address: str) -> None:
        self.known: dict[str, list[str]] = {}

        def bound() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, 53))
            return made

        self._socket = inside(namespace, bound)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop to answer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(512)
                if not query:
                    return
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode())
            at += 1 + size
        question = query[12 : at + 5]
        wants_address = struct.unpack("!H", query[at + 1 : at + 3])[0] == 1
        name = ".".join(labels).lower()
        addresses = self.known.get(name, []) if wants_address else []
        code = 0 if name in self.known else 3
        head = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(addresses), 0, 0)
        return head + question + b"".join(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04" + socket.inet_aton(a) for a in addresses)


class Container:
    """One running replica of a service."""

    def __init__(self, stack: Stack, name: str, number: int, service: Mapping[str, Any]) -> None:
        self.stack, self.name, self.service = stack, name, service
        self.namespace, self.address = f"{stack.namespace}-{number}", f"{NET}.{number + 1}"
        self.log = stack.folder / f"{name}-{number}.log"
        self.image = stack.images(service)
        given = _pairs(service.get("environment", {}))
        self.environ = {**self.image.environ, **stack.from_files(service), **given, "HOSTNAME": f"{name}-{number}"}
        stack.ip("netns", "add", self.namespace)
        stack.ip("-n", stack.namespace, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        stack.ip("-n", stack.namespace, "link", "set", f"v{number}", "master", "br0", "up")
        stack.ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            stack.ip("-n", self.namespace, "link", "set", link, "up")
        command = [
            str(part) for part in (*service.get("entrypoint", self.image.entrypoint), *(service.get("command") or self.image.command))
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "sh", "-euc", self._script(command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _script(self, command: Sequence[str]) -> str:
        """Make the root in memory, bind what belongs into it, close it, drop all rights, run."""
        root, user = str(self.stack.folder / f"root-{self.namespace}"), self.image.user
        Path(root).mkdir()
        lines = ["mount --make-rprivate /", f"mount -t tmpfs -o mode=755 tmpfs {root}"]

        def bind(source: str, target: str, *, read_only: bool = True) -> None:
            place = shlex.quote(root + target)
            make = f"mkdir -p {place}" if Path(source).is_dir() else f"mkdir -p $(dirname {place}); touch {place}"
            lines.append(f"[ -e {place} ] || {{ {make}; }}; mount --bind {shlex.quote(source)} {place}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {place}")

        for part in SYSTEM:
            if Path(part).is_symlink():
                lines.append(f"ln -s {shlex.quote(str(Path(part).readlink()))} {root}{part}")
            elif Path(part).is_dir():
                bind(part, part)
        lines += [f"mkdir {root}/{name}; mount --rbind /{name} {root}/{name}" for name in ("proc", "dev", "sys")]
        bind(str(self.stack.resolver), "/etc/resolv.conf")
        for folder in (*self.service.get("tmpfs", ()), *([] if self.service.get("read_only") else ["/tmp"])):  # noqa: S108 - the container's
            lines.append(f"mkdir -p {root}{folder}; mount -t tmpfs -o mode=1777 tmpfs {root}{folder}")
        for place, path in self.image.paths.items():
            bind(str(path), place)
        for name, text in self.image.files.items():
            lines.append(f"mkdir -p $(dirname {root}{name}); printf %s {shlex.quote(text)} > {root}{name}; chmod 755 {root}{name}")
        lines += [f"mkdir -p {root}{folder}; chown {user}:{user} {root}{folder}" for folder in self.image.folders]
        for source, target, read_only in self.stack.mounts(self.service, user):
            bind(source, target, read_only=read_only)
        if self.service.get("read_only"):
            lines.append(f"mount -o remount,ro {root}")
        where = self.service.get("working_dir", "/")
        inner = f"cd {shlex.quote(where)}; exec {' '.join(map(shlex.quote, self._dropped(command)))}"
        return "\n".join([*lines, f"exec chroot {root} /bin/sh -c {shlex.quote(inner)}"])

    def _dropped(self, command: Sequence[str]) -> list[str]:
        user = str(self.image.user)
        rights = ["--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        environ = [f"{name}={value}" for name, value in self.environ.items()]
        return ["setpriv", *rights, "--pdeathsig", "KILL", "env", "-i", *environ, *command]

    def run(self, command: Sequence[str], seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command beside the service, as `docker exec` does."""
        entered = ["nsenter", f"--target={self.process.pid}", "--mount", "--net", "--root", "--wd=/"]
        return subprocess.run([*entered, *self._dropped(command)], check=False, capture_output=True, text=True, timeout=seconds)

    def is_healthy(self) -> bool:
        """What the file's health check says now."""
        kind, *command = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(command, _seconds(self.service["healthcheck"]["timeout"]) + 10).returncode == 0

    def wait_healthy(self) -> None:
        """Wait until the health check passes.

        Raises:
            AssertionError: it has ended, or does not pass in the time that the file gives it.
        """
        check = self.service["healthcheck"]
        until = time.monotonic() + _seconds(check["start_period"]) + check["retries"] * _seconds(check["interval"])
        while not self.is_healthy():
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}\n{self.tail()}"
            assert time.monotonic() < until, f"{self.name} does not become healthy\n{self.tail()}"
            time.sleep(0.3)

    def tail(self) -> str:
        """The end of what it has written."""
        return self.log.read_text(errors="replace")[-5000:]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        self.stack.forget(self)
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(STOP_S)


class Stack:
    """All services of a compose file, as far as they are started.

    Args:
        file: the compose file.
        folder: for volumes and logs.
        images: what stands in for a service's image.
        environ: the variables that the file names.
        files: what is read instead of the file's `env_file`s, by their paths.
    """

    def __init__(
        self,
        file: Path,
        folder: Path,
        images: Callable[[Mapping[str, Any]], Image],
        environ: Mapping[str, str],
        files: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.base, self.folder, self.images, self._files = file.parent, folder, images, files
        self.file: dict[str, Any] = interpolated(yaml.safe_load(file.read_text(encoding="utf-8")), environ)
        self.services: dict[str, dict[str, Any]] = self.file["services"]
        self.namespace = f"hw{os.getpid()}"
        self.running: list[Container] = []
        self.done: set[str] = set()
        self._number = 1
        self.resolver = folder / "resolv.conf"
        self.resolver.write_text(f"nameserver {NET}.1\noptions timeout:1 attempts:2\n")

    def __enter__(self) -> Self:
        self.ip("netns", "add", self.namespace)
        self.ip("-n", self.namespace, "link", "add", "br0", "type", "bridge")
        self.ip("-n", self.namespace, "addr", "add", f"{NET}.1/24", "dev", "br0")
        for link in ("lo", "br0"):
            self.ip("-n", self.namespace, "link", "set", link, "up")
        self._names = Names(self.namespace, f"{NET}.1")
        return self

    def __exit__(self, *_: object) -> None:
        for container in reversed(self.running[:]):
            container.stop(signal.SIGKILL)
        self._names.close()
        for number in (f"-{n}" for n in range(1, self._number)):
            subprocess.run(["ip", "netns", "del", self.namespace + number], check=False, capture_output=True)
        self.ip("netns", "del", self.namespace)

    @staticmethod
    def ip(*arguments: str) -> None:
        """Run iproute2's `ip`."""
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def start(self, name: str) -> Container:
        """Start one replica; nothing is waited for."""
        container = Container(self, name, self._number, self.services[name])
        self._number += 1
        self.running.append(container)
        self._names.known.setdefault(name, []).append(container.address)
        return container

    def forget(self, container: Container) -> None:
        """It is stopped: its name no longer gives its address."""
        if container in self.running:
            self.running.remove(container)
            self._names.known[container.name].remove(container.address)

    def up(self, name: str) -> None:
        """Start a service after all that it depends on is as the file wants it, in as many replicas as it says."""
        if name in self.done or self.of(name):
            return
        wanted = self.services[name].get("depends_on", {})
        for other, terms in wanted.items() if isinstance(wanted, dict) else ((other, {}) for other in wanted):
            self.up(other)
            match terms.get("condition", "service_started"):
                case "service_healthy":
                    for container in self.of(other):
                        container.wait_healthy()
                case "service_completed_successfully":
                    self.complete(other)
        for _ in range(self.services[name].get("deploy", {}).get("replicas", 1)):
            self.start(name)

    def complete(self, name: str) -> None:
        """Wait for a one-shot's end.

        Raises:
            AssertionError: it failed, or does not end.
        """
        for container in self.of(name):
            code = container.process.wait(ONE_SHOT_S)
            assert code == 0, f"{name} ended with {code}\n{container.tail()}"
            self.forget(container)
            self.done.add(name)

    def of(self, name: str) -> list[Container]:
        """The replicas of a service that run."""
        return [container for container in self.running if container.name == name]

    def from_files(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The environment of its `env_file`s."""
        found: dict[str, str] = {}
        for file in service.get("env_file", ()):
            assert file["path"] in self._files or not file["required"]
            found |= self._files.get(file["path"], {})
        return found

    def mounts(self, service: Mapping[str, Any], user: int) -> Iterator[tuple[str, str, bool]]:
        """Source, target and whether read-only of each volume; a new named one belongs to the user, as in Docker it takes the image's."""
        for volume in service.get("volumes", ()):
            source, target, *mode = volume.split(":")
            if not source.startswith((".", "/")):
                assert source in self.file["volumes"], volume
                place = self.folder / "volumes" / source
                if not place.exists():
                    place.mkdir(parents=True)
                    os.chown(place, user, user)
                source = str(place)
            yield str((self.base / source).resolve()), target, mode == ["ro"]


def can_run() -> str:
    """Why services can't be run here; "" when they can."""
    missing = [tool for tool in ("ip", "unshare", "nsenter", "setpriv", "flock", "chroot") if shutil.which(tool) is None]
    if os.geteuid() or missing:
        return f"wants root, and iproute2 and util-linux; missing: {', '.join(missing) or 'root'}"
    made = subprocess.run(["unshare", "--mount", "--net", "ip", "link", "add", "br0", "type", "bridge"], check=False, capture_output=True)
    return made.stderr.decode().strip()


def _pairs(environment: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items() if value is not None}


def _seconds(text: str) -> float:
    assert text.endswith("s"), text
    return float(text[:-1])
