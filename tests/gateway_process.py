"""A real `headwater gateway` process for tests, and an HTTP client of it. Not a test."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from tests.worker_process import WAIT_S, Installation, Worker

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        return str(self.json["type"]).rpartition(":")[2]


class GatewayProcess(Worker):
    """One `headwater gateway` process."""

    port_setting = "HEADWATER_GATEWAY_PORT"

    def __init__(self, world: Installation, name: str = "gateway", *, ready: bool = True, **settings: Any) -> None:
        super().__init__(world, name, ("gateway",), {f"HEADWATER_{key.upper()}": str(value) for key, value in settings.items()})
        if ready:
            self.wait_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, seconds: float = 30.0) -> Answer:
        """Send a request; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, {**(JSON if sent is not None else {}), **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def until(self, method: str, path: str, wanted: Callable[[Answer], bool], seconds: float = WAIT_S, body: Any = None) -> Answer:
        """The first answer that is as wanted.

        Raises:
            AssertionError: none is, in time.
        """
        late = time.monotonic() + seconds
        while not wanted(answer := self.call(method, path, body)):
            assert time.monotonic() < late, f"{method} {path}: {answer.status} {answer.body[:500]!r}\n{self.log()[-2000:]}"
            time.sleep(0.02)
        return answer

    def until_listening(self) -> Answer:
        """The answer of /readyz, as soon as there is one."""
        late = time.monotonic() + WAIT_S
        while True:
            try:
                return self.call("GET", "/readyz")
            except OSError:
                assert time.monotonic() < late, self.log()[-2000:]
                time.sleep(0.05)

    @contextmanager
    def stream(self, user: str, query: str = "", **headers: str) -> Iterator[Events]:
        """An open stream of a user's lists."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", f"/v1/users/{user}/stream{query}", headers={k.replace("_", "-"): v for k, v in headers.items()})
            yield Events(connection.getresponse())
        finally:
            connection.close()


class Events:
    """The events of a stream, read as they come."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.answer = answer

    def lines(self) -> Iterator[str]:
        """The lines as they are; comments are among them."""
        while line := self.answer.readline():
            yield line.decode().rstrip("\n")

    def next(self) -> dict[str, str]:
        """The fields of the next event that has data.

        Raises:
            AssertionError: the stream ended.
        """
        fields: dict[str, str] = {}
        for line in self.lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                return fields
            else:
                fields = {}
        raise AssertionError("the stream ended")
