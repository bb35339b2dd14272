"""Every client of ours on a secured broker: TLS, users, the rights of docs/security.md and no others, and what refusals say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import Consumer

from engine.registry import Registry
from streams import rights
from streams.outside import Outside
from streams.processes import Child, Children, free_port
from streams.settings import load
from streams.topics import Names
from tests.secured_broker import PROTOCOLS, Right, SecuredBroker
from tests.tiny_bert import write_generation

pytestmark = [pytest.mark.kafka, pytest.mark.broker, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parent.parent
TABLE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


class Process(NamedTuple):
    """A command under test; its name is that of its rows in docs/security.md.

    Args:
        arguments: of `headwater`.
        without_rights: the error's code where its user has none.
        port: for one that stays until it is told to stop, the setting of the port that its /readyz is on.
        shows: what /readyz has once it has done with its rights what it does all the time.
    """

    arguments: tuple[str, ...]
    without_rights: str
    port: str = ""
    shows: str = ""


PROCESSES = {
    "topics": Process(("topics", "create"), "topic_authorization_failed"),
    "activate": Process(("generations", "activate"), "not_read"),
    "replay": Process(("replay", "ifdb-played", "--to", "2008-01-01", "--no-items"), "missing_topic"),
    "rules": Process(("rules", "list"), "missing_topic"),
    "explain": Process(("explain", "ann", "i1", "--wait", "0"), "missing_topic"),
    "train": Process(("train",), "missing_topic"),
    "backfill": Process(("backfill",), "group_unknown"),
    "worker": Process(("worker",), "missing_topic", port="HEADWATER_WEB_PORT"),
    "trainer": Process(("trainer",), "missing_topic", port="HEADWATER_TRAINER_PORT", shows='trainer_info{active="g-000001"}'),
    "gateway": Process(("gateway",), "", port="HEADWATER_GATEWAY_PORT"),
}
WAITING = "gateway"
"""It does not end when Kafka takes it not, since it may later: /readyz and its log say why."""
ENDING = [name for name, process in PROCESSES.items() if not process.port]
STAYING = [name for name, process in PROCESSES.items() if process.port]
REFUSALS = {"password": "authentication", "authority": "tls", "protocol": "transport", "rights": ""}
BOUND_S = 120
PASSWORD = "its-own-secret"


def rights_of(process: str) -> list[Right]:
    """The rows of the table in docs/security.md."""
    found: list[Right] = []
    for processes, operations, place in re.findall(r"^\| ([\w, ]+) \| ([\w, ]+) \| (.+) \|$", TABLE, re.MULTILINE):
        if process in processes.split(", "):
            kind = place.split()[0].removesuffix("s").lower()
            names = ["kafka-cluster"] if kind == "cluster" else re.findall(r"`([^`]+)`", place)
            words = [re.sub(r"(?<!^)([A-Z])", r"_\1", word) for word in operations.split(", ")]
            found += [(kind, one, word) for one in names for word in words]
    assert found, process
    return found


class Secured(NamedTuple):
    """The broker, and what all processes are told."""

    broker: SecuredBroker
    environ: dict[str, str]
    folder: Path

    def of(self, name: str, protocol: str = "SASL_SSL") -> dict[str, str]:
        """The environment of a process that runs as a user."""
        return self.environ | self.broker.environ(protocol, name)

    def own(self, process: str, environ: Mapping[str, str]) -> tuple[dict[str, str], int]:
        """The same with a state folder and a port of its own, and the port."""
        port, setting = free_port(), PROCESSES[process].port
        return {**environ, "HEADWATER_STATE_DIR": str(self.folder / f"state-{port}"), **({setting: str(port)} if setting else {})}, port


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker with a user per process, each with the rights of the table; topics, and a generation."""
    if "KAFKA_HOME" not in os.environ:
        pytest.skip("wants Apache Kafka, to start it with users and certificates: set KAFKA_HOME")
    folder = tmp_path_factory.mktemp("secured")
    (folder / "registry").mkdir()
    Registry(str(folder / "registry")).publish(write_generation(folder / "draft"))
    users = dict.fromkeys((*PROCESSES, "reader", "nobody", "hindered"), PASSWORD)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    own = {"REGISTRY": str(folder / "registry"), "PARTITIONS": "2", "SESSION_TIMEOUT_S": "6", "CHECKPOINT_INTERVAL_S": "1"}
    environ = plain | {f"HEADWATER_{name}": value for name, value in own.items()} | {"PYTHONPATH": str(ROOT)}
    with SecuredBroker(folder, users) as broker:
        for name in (*PROCESSES, "reader"):
            broker.allow(name, rights_of(name))
        made = Secured(broker, environ, folder)
        for process in ("topics", "activate"):
            done = headwater(PROCESSES[process].arguments, made.of(process))
            assert done.returncode == 0, done.stderr
        yield made


def headwater(arguments: tuple[str, ...], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must come in time."""
    command = [sys.executable, "-m", "streams.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=dict(environ), check=False, capture_output=True, text=True, timeout=BOUND_S)


def test_the_table_is_what_a_worker_asks_for() -> None:
    """Rule: the rights that docs/security.md lists for a worker are those that it looks for when it starts."""
    wanted = {("topic", name, operation.name.title()) for name, ops in rights.of_worker(Names.under("")).items() for operation in ops}
    assert set(rights_of("worker")) == wanted | {("group", "headwater", "Read")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("process", ENDING)
def test_commands_run_with_their_rights(secured: Secured, process: str, protocol: str) -> None:
    """Rule: each command works with users, with TLS and with client certificates, by a user with the rights of the table and no others."""
    done = headwater(PROCESSES[process].arguments, secured.of(process, protocol))
    assert done.returncode == 0, done.stderr


def test_what_is_active_is_read_without_a_group(secured: Secured) -> None:
    """Rule: `--if-none` reads `generations` with the rights of who activates: a reader without a group needs no right to one."""
    headwater(("generations", "activate"), secured.of("activate"))
    done = headwater(("generations", "activate", "--if-none"), secured.of("activate"))
    assert (done.returncode, done.stdout.split()[0]) == (0, "g-000001"), done.stderr


def test_rules_are_sent_with_their_rights(secured: Secured, tmp_path: Path) -> None:
    """Rule: who lists rules with the rights of the table may put and end them, too."""
    file = tmp_path / "rule.json"
    file.write_text(json.dumps({"rule_id": "r2", "action": "block", "match": {"item_ids": ["i2"]}}))
    for arguments in (("put", str(file), "--force"), ("end", "r2")):
        done = headwater(("rules", *arguments), secured.of("rules"))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("process", STAYING)
def test_processes_become_ready_with_their_rights(secured: Secured, process: str) -> None:
    """Rule: what stays until it is told to stop becomes ready, by a user with the rights of the table and no others, and stops."""
    environ, port = secured.own(process, secured.of(process))
    log = secured.folder / f"{process}.log"
    with Children() as children:
        child = children.start(process, PROCESSES[process].arguments, environ, log)
        _until_ready(child, process, port, log)
        child.stop()
        assert child.process.returncode == 0, log.read_text()[-4000:]
    assert "uthorization" not in log.read_text()


def _until_ready(child: Child, process: str, port: int, log: Path) -> None:
    late = time.monotonic() + 120
    while (said := _ask(port, "/readyz")) is None or PROCESSES[process].shows not in said.decode():
        child.check()
        assert time.monotonic() < late, log.read_text()[-4000:]
        time.sleep(0.2)


def test_the_gateway_writes_with_its_rights(secured: Secured) -> None:
    """Rule: the gateway with the rights of the table hands on what it is given, and knows how far the workers are."""
    environ, port = secured.own("gateway", secured.of("gateway"))
    log = secured.folder / "gateway-writes.log"
    with Children() as children:
        child = children.start("gateway", ("gateway",), environ, log)
        _until_ready(child, "gateway", port, log)
        event = {"event_id": "g1", "type": "click", "user_id": "u1", "item_id": "i1", "timestamp": round(time.time() * 1000)}
        rule = {"rule_id": "r1", "action": "block", "match": {"item_ids": ["i2"]}}
        for method, path, body in (
            ("POST", "/v1/events", event),
            ("PUT", "/v1/items/i1", {"item_id": "i1", "title": "one"}),
            ("PUT", "/v1/rules/r1", rule),
        ):
            assert _ask(port, path, method, body) is not None, log.read_text()[-4000:]
        status = json.loads(_ask(port, "/v1/status") or b"{}")
        assert status["kafka"] == {"ok": True, "error": ""}
        assert {one["topic"] for one in status["lag"]} == {"events", "requests", "users", "_pairs"}
    assert "uthorization" not in log.read_text()


@pytest.mark.parametrize("wrong", ["password", "authority", "rights"])
def test_the_gateway_says_why_it_waits(secured: Secured, wrong: str) -> None:
    """Rule: a gateway that Kafka does not take is alive and not ready, and says why where it is asked and in its log."""
    environ, port = secured.own("gateway", refused(secured, "gateway", wrong))
    log = secured.folder / f"gateway-{wrong}.log"
    expected = REFUSALS[wrong] or "missing_topic"
    with Children() as children:
        child = children.start("gateway", ("gateway",), environ, log)
        late = time.monotonic() + 60
        while expected not in _why_not(port):
            child.check()
            assert time.monotonic() < late, (_why_not(port), log.read_text()[-4000:])
            time.sleep(0.2)
        assert _ask(port, "/healthz") == b"ok\n"
    assert "gateway_waits" in log.read_text()
    assert PASSWORD not in log.read_text()


def _why_not(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def _ask(port: int, path: str, method: str = "GET", body: object = None) -> bytes | None:
    """What a process of ours answers; None where it answers with an error or not at all."""
    data, kind = (None, {}) if body is None else (json.dumps(body).encode(), {"Content-Type": "application/json"})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, kind, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
            return bytes(answer.read())
    except OSError:
        return None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_worker_makes_lists_with_its_rights(secured: Secured, protocol: str) -> None:
    """Rule: a worker with the rights of the table makes the list that an event leads to; a reader in a group of its own gets it."""
    environ, _ = secured.own("worker", secured.of("worker", protocol))
    with Children() as children:
        log = secured.folder / f"worker-{protocol}.log"
        worker = children.start("the worker", PROCESSES["worker"].arguments, environ, log)
        reader = _reader(secured, protocol)
        user = f"u-{protocol}"
        event = b'{"event_id":"%s","type":"click","user_id":"%s","item_id":"i1","timestamp":%d}' % (
            user.encode(),
            user.encode(),
            round(time.time() * 1000),
        )
        sender = Outside(load(secured.of("worker", protocol) | secured.broker.environ(protocol, "admin")))
        sender.send(user, event)
        late = time.monotonic() + 120
        while user not in (found := _next(reader)):
            worker.check()
            sender.read(0)
            assert time.monotonic() < late, log.read_text()[-4000:]
        assert found == f"home:{user}"
        sender.close()
        reader.close()
        text = log.read_text()
    assert "level=error" not in text
    assert "uthorization" not in text


def _reader(secured: Secured, protocol: str) -> Consumer:
    """A consumer of a system outside, in its own group."""
    from streams import security

    config = security.librdkafka(load(secured.of("reader", protocol)))
    consumer = Consumer({**config, "group.id": "my-site", "auto.offset.reset": "earliest", "log_level": 0})
    consumer.subscribe(["recommendations"])
    return consumer


def _next(reader: Consumer) -> str:
    message = reader.poll(0.2)
    if message is None:
        return ""
    assert message.error() is None, message.error()
    return (message.key() or b"").decode()


@pytest.mark.parametrize(
    "process, wrong",
    # a wrong protocol is waited for until the time is over, 15 s: one command stands for all, which ask for topics in the same way
    [(process, wrong) for process in PROCESSES if process != WAITING for wrong in REFUSALS if wrong != "protocol" or process == "topics"],
)
def test_a_refusal_is_said(secured: Secured, process: str, wrong: str) -> None:
    """Rule: wrong password, unknown authority, wrong protocol and missing rights end each command, in time, with what to do about it."""
    environ, _ = secured.own(process, refused(secured, process, wrong))
    done = headwater(PROCESSES[process].arguments, environ)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"{REFUSALS[wrong] or PROCESSES[process].without_rights}: found "), done.stderr
    assert PASSWORD not in done.stderr
    assert "guessed" not in done.stderr


def refused(secured: Secured, process: str, wrong: str) -> dict[str, str]:
    """The environment of a process that something is wrong with."""
    environ = secured.of(process)
    match wrong:
        case "password":
            return environ | {"HEADWATER_PASSWORD": "guessed"}
        case "authority":
            return environ | {"HEADWATER_CA_FILE": str(secured.broker.stranger.file)}
        case "protocol":
            return environ | {"HEADWATER_SECURITY_PROTOCOL": "PLAINTEXT"}
        case _:
            return environ | secured.broker.environ("SASL_SSL", "nobody")


def test_a_worker_names_every_right_that_is_missing(secured: Secured) -> None:
    """Rule: a worker that may not do all it must does not start, and names what it lacks, the group and what it can't see included."""
    lacking = [
        ("topic", "items", "Read"),
        ("topic", "recommendations", "Write"),
        ("topic", "_pairs", "Write"),
        ("group", "headwater", "Read"),
    ]
    secured.broker.allow("hindered", [right for right in rights_of("worker") if right not in lacking])
    environ, _ = secured.own("worker", secured.of("hindered"))
    done = headwater(PROCESSES["worker"].arguments, environ)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("missing_rights: found no right to ")
    for kind, name, operation in lacking:
        assert f"{operation} on {'group ' if kind == 'group' else ''}{name}" in said
    assert said.count(" on ") == len(lacking)
