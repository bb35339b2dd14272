"""The local stack, from docker-compose.yml itself: its services run as processes with the file's commands, environment and health checks.

No Docker engine is needed; `tests/containers.py` says what stands for one. Kafka is Apache Kafka itself, started from the environment by
the program that its image starts from it; Prometheus is Debian's. Grafana is no Debian package: test_monitoring.py holds its files to form.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import stat
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from confluent_kafka import Consumer, TopicPartition

from streams import cli
from streams.topics import Names
from tests.containers import Container, Image, Stack, can_run, inside
from tests.dockerfile import SERVE_BLOCKED, Dockerfile
from tests.tiny_bert import write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]
DATA = ROOT / "data" / "ifdb-played"
DOCKERFILE = Dockerfile(ROOT / "ops" / "Dockerfile")
ITEMS, EVENTS = 400, 2_000
KAFKA_USER, PROMETHEUS_USER = 1000, 65534
SOURCE, PACKAGES = "/src", "/opt/packages"
CONFIGURE = {"default": "/opt/kafka/default", "mounted": "/opt/kafka/mounted", "final": "/opt/kafka/config"}
"""Folders that Kafka's image keeps its configuration in, by the names of its own start program's options."""
KAFKA_LOGGING = yaml.safe_dump({"Configuration": {"Loggers": {"Root": {"level": "WARN"}, "Logger": []}}})


def headwater_image(target: str) -> Image:
    """What the Dockerfile makes: our source, the environment, the user; without torch where the image has none."""
    venv, base = Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()
    python = f'#!/bin/sh\nexec env PYTHONPATH={SOURCE}:{SOURCE}/blocked {PACKAGES}/bin/python "$@"\n'
    copied = [part for _, parts in DOCKERFILE.stages["build-serve"].copies for part in parts if (ROOT / part).is_dir()]
    blocked = SERVE_BLOCKED if target == "serve" else ()
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n"  # None: `import torch` raises ModuleNotFoundError
    stage = DOCKERFILE.stages[target]
    return Image(
        user=stage.uid,
        environ=stage.environ | {"PATH": stage.environ["PATH"].replace("$PATH", os.defpath)},
        paths={PACKAGES: venv, str(base): base, **{f"{SOURCE}/{part}": ROOT / part for part in copied}},
        files={
            "/opt/venv/bin/python": python,
            "/opt/venv/bin/headwater": '#!/bin/sh\nexec python -m streams.cli "$@"\n',
            f"{SOURCE}/blocked/sitecustomize.py": block,
        },
        folders=stage.folders,
        command=stage.command,
    )


def kafka_image() -> Image:
    """Apache Kafka's start program over its jars, as the image's `run` does: environment to properties, format, serve."""
    home = Path(os.environ["KAFKA_HOME"]).resolve()
    java = Path(shutil.which("java") or "java").resolve()
    kafka = f"{java} $KAFKA_HEAP_OPTS -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '{home}/libs/*'"
    options = "".join(f" --{name}-configs-dir {path}" for name, path in CONFIGURE.items())
    serve = f"exec {kafka} kafka.Kafka {CONFIGURE['final']}/server.properties"
    run = f"#!/bin/sh -eu\n{kafka} kafka.docker.KafkaDockerWrapper setup{options}\n{serve}\n"
    return Image(
        user=KAFKA_USER,
        environ={"PATH": os.defpath, "KAFKA_HEAP_OPTS": "-Xmx1G"},
        paths={str(path): path for path in (home, *([] if java.is_relative_to("/usr") else [java.parent.parent]))},
        files={
            "/opt/kafka/run": run,
            f"{CONFIGURE['default']}/server.properties": "",
            f"{CONFIGURE['default']}/log4j2.yaml": KAFKA_LOGGING,
            f"{CONFIGURE['default']}/tools-log4j2.yaml": KAFKA_LOGGING,
        },
        folders=list(CONFIGURE.values()),
        command=["/opt/kafka/run"],
    )


def image_of(service: Mapping[str, Any]) -> Image:
    """What stands in for a service's image."""
    if "build" in service:
        return headwater_image(service["build"]["target"])
    name = service["image"].partition(":")[0]
    if name == "apache/kafka":
        return kafka_image()
    assert name == "prom/prometheus", name
    return Image(PROMETHEUS_USER, {"PATH": os.defpath}, entrypoint=["/usr/bin/prometheus"])


def small_data(folder: Path) -> None:
    """The first events of ifdb-played and the items that they name, with a checkpoint of two layers beside them."""
    (folder / "small").mkdir(parents=True)
    with gzip.open(DATA / "events.tsv.gz", "rt", encoding="utf-8") as file:
        events = [line for line, _ in zip(file, range(EVENTS + 1), strict=False)]
    named = {line.split("\t")[2] for line in events}
    with gzip.open(DATA / "items.tsv.gz", "rt", encoding="utf-8") as file:
        items = [line for n, line in enumerate(file) if n == 0 or line.split("\t")[0] in named]
    for name, lines in (("events", events), ("items", items)):
        with gzip.open(folder / "small" / f"{name}.tsv.gz", "wt", encoding="utf-8") as file:
            file.writelines(lines)
    shutil.copy(DATA / "META.json", folder / "small")
    for path in write_checkpoint(folder / "tiny").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for its owner only; the stack runs as another user


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole stack, started in the file's own order."""
    if reason := can_run():
        pytest.skip(reason)
    if "KAFKA_HOME" not in os.environ:
        pytest.skip("wants Apache Kafka: set KAFKA_HOME")
    folder = tmp_path_factory.mktemp("stack")
    small_data(folder / "data")
    environ = {
        "STACK_DATA": str(folder / "data"),
        "STACK_CATALOGUE": "small",
        "STACK_CHECKPOINT": "tiny",
        "STACK_KAFKA_PORT": "29092",  # its own port: a client in Kafka's namespace comes in as one on the host does
    }
    own = {"HEADWATER_PARTITIONS": "4", "HEADWATER_SESSION_TIMEOUT_S": "6", "HEADWATER_CHECKPOINT_INTERVAL_S": "1"}
    with Stack(FILE, folder, image_of, environ, {"headwater.env": own}) as made:
        compile_loops(made)
        for name in SERVICES:
            if name != "grafana" and (name != "prometheus" or shutil.which("prometheus")):
                made.up(name)
        for name in ("worker", "gateway", "trainer"):
            for container in made.of(name):
                container.wait_healthy()
        made.complete("replay")
        yield made


def compile_loops(stack: Stack) -> None:
    """Fill the volume as Docker fills it from the image: by what the Dockerfile runs."""
    (program,) = DOCKERFILE.stages["serve"].programs
    worker = stack.services["worker"]
    volume = next(one for one in worker["volumes"] if one.startswith("compiled:"))
    stack.services["compile"] = {
        "build": {"target": "serve"},
        "read_only": True,
        "tmpfs": worker["tmpfs"],
        "volumes": [volume],
        "command": program,
    }
    stack.start("compile")
    stack.complete("compile")


def get(service: Container, place: str, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON that a service answers on the stack's network, called by its name; `place`: port and path."""
    request = urllib.request.Request(f"http://{service.address}:{place}", headers={"Host": service.name, **(headers or {})})

    def read() -> Any:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own address
            return json.load(answer)

    return inside(service.stack.namespace, read)


def lists(kafka: Container) -> dict[str, Any]:
    """The newest standing list of each user, read as a client on the host reads them."""

    def read() -> dict[str, Any]:
        consumer = Consumer({"bootstrap.servers": "127.0.0.1:29092", "group.id": "tests", "enable.auto.commit": False, "log_level": 0})
        topic = Names.under("").recommendations
        parts = [TopicPartition(topic, number, 0) for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions]
        left = {part.partition: consumer.get_watermark_offsets(part, timeout=10)[1] for part in parts}
        consumer.assign(parts)
        found = {}
        while any(offset > 0 for offset in left.values()):
            message = consumer.poll(10)
            assert message is not None, left
            assert message.error() is None
            made = json.loads(message.value() or b"")
            found[made["user_id"]] = made
            if (message.offset() or 0) + 1 >= left[message.partition() or 0]:
                left[message.partition() or 0] = 0
        consumer.close()
        return found

    return inside(kafka.namespace, read)


def until(wanted: Any, seconds: float = 60.0) -> None:
    """Wait for a truth.

    Raises:
        AssertionError: it does not come.
    """
    late = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < late, found
        time.sleep(0.5)


# -- the file


def test_every_service_of_ours_runs_a_command_that_exists() -> None:
    """Rule: what the file starts from our images is a command of `headwater`."""
    root: Any = typer.main.get_command(cli.app)
    for name, service in SERVICES.items():
        if "build" in service:
            words = " ".join(service["command"]).split("headwater ")[1:]
            assert words, name
            assert all(word.split()[0] in root.commands for word in words), name


def test_nothing_is_more_open_than_it_must_be() -> None:
    """Rule: ports are this machine's only; no container has rights, names or ports that keep it from scaling; ours are read-only."""
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"container_name", "privileged", "network_mode", "user"} & set(service), name
        assert service.get("read_only") or name == "kafka", name
        assert ":" in service["image"], name
        assert "latest" not in service["image"], name
    assert "ports" not in SERVICES["worker"]
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


def test_what_runs_for_long_has_a_health_check() -> None:
    """Rule: one-shots are waited for until they have ended, all others until their health check passes."""
    for name, service in SERVICES.items():
        one_shot = name in {"topics", "first", "replay"}
        assert ("healthcheck" in service) != one_shot, name
        assert (service["restart"] == "unless-stopped") != one_shot, name
        for other, terms in dict(service.get("depends_on") or {}).items() if isinstance(service.get("depends_on"), dict) else ():
            ended = terms["condition"] == "service_completed_successfully"
            assert ended == (other in {"topics", "first"}), (name, other)


# -- as processes


@pytest.mark.kafka
@pytest.mark.broker
@pytest.mark.timeout(420)
class TestStack:
    """The stack as it runs; the tests share it and run in this order."""

    def test_a_generation_was_made_and_serves(self, stack: Stack) -> None:
        """Rule: with an empty registry the stack makes the first generation itself; lists name it, and are made of the data set's items."""
        made = lists(stack.of("kafka")[0])
        assert len(made) > 50
        assert {one["generation"] for one in made.values()} == {"g-000001"}
        assert all(one["items"] for one in made.values())

    def test_a_list_comes_over_http(self, stack: Stack) -> None:
        """Rule: the gateway gives the list of a user of the replayed data."""
        gateway = stack.of("gateway")[0]
        user, made = next(iter(lists(stack.of("kafka")[0]).items()))
        token = gateway.environ["HEADWATER_GATEWAY_TOKEN"]
        found = get(gateway, f"8080/v1/users/{user}/lists/home", {"Authorization": f"Bearer {token}"})
        assert found["user_id"] == user
        assert [item["item_id"] for item in found["items"]] == [item["item_id"] for item in made["items"]]
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            get(gateway, "8080/v1/users", {"Authorization": f"Bearer {token}", "Host": "evil.example"})
        refused.value.close()

    def test_each_worker_has_a_state_folder(self, stack: Stack) -> None:
        """Rule: replicas of one service share a volume and not a folder; one that comes takes the folder of one that has gone."""
        state = stack.folder / "volumes" / "state"
        assert {path.name for path in state.iterdir() if path.is_dir()} == {"1", "2"}
        gone = stack.of("worker")[0]
        assert gone.stop(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: len(stack.of("worker")) == 1)
        stack.start("worker").wait_healthy()
        assert {path.name for path in state.iterdir() if path.is_dir()} == {"1", "2"}

    def test_prometheus_reaches_every_replica(self, stack: Stack) -> None:
        """Rule: the configuration finds each worker by the service's name, loads the rules, and can answer every panel of the dashboard."""
        if not stack.of("prometheus"):
            pytest.skip("wants prometheus: apt-get install prometheus")
        api, prometheus = "9090/api/v1", stack.of("prometheus")[0]
        prometheus.wait_healthy()

        def reached() -> bool:
            targets = get(prometheus, f"{api}/targets")["data"]["activeTargets"]
            up = [target["scrapePool"] for target in targets if target["health"] == "up"]
            return up.count("worker") == 2 and all(up.count(name) for name in ("trainer", "gateway"))

        until(reached)
        assert len(get(prometheus, f"{api}/rules")["data"]["groups"][0]["rules"]) > 10
        dashboard = json.loads((ROOT / "ops/grafana/dashboards/headwater.json").read_text(encoding="utf-8"))
        for expression in (target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())):
            query = urllib.parse.urlencode({"query": expression.replace("$__rate_interval", "1m")})
            assert get(prometheus, f"{api}/query?{query}")["status"] == "success", expression
        counted = get(prometheus, f"{api}/query?query=sum(headwater_generation_info)")["data"]["result"][0]["value"][1]
        assert counted == "2"

    def test_it_starts_again(self, stack: Stack) -> None:
        """Rule: one-shots that ran before change nothing when they run again: what is active stays."""
        for name in ("topics", "first"):
            container = stack.start(name)
            stack.complete(name)
            assert ("made 0 topics" if name == "topics" else "nothing announced") in container.tail()
        assert {path.name for path in (stack.folder / "volumes" / "registry").iterdir() if path.is_dir()} == {"g-000001"}

    def test_nothing_runs_with_rights(self, stack: Stack) -> None:
        """Rule: no service runs as root or can write to its root, and the registry is for the ones that publish."""
        for container in stack.running:
            status = Path(f"/proc/{container.process.pid}/status").read_text()
            assert f"Uid:\t{container.image.user}\t" in status
            assert "CapEff:\t0000000000000000" in status
            if container.service.get("read_only"):
                assert container.run(["touch", "/opt/x"]).returncode != 0
        assert stack.of("worker")[0].run(["touch", "/registry/x"]).returncode != 0
        assert stat.S_IMODE((stack.folder / "volumes" / "registry").stat().st_mode) & stat.S_IWOTH == 0

    def test_a_worker_stops_when_told(self, stack: Stack) -> None:
        """Rule: SIGTERM, as `docker compose stop` sends it, ends a worker with its checkpoint made and status 0."""
        for container in stack.of("worker"):
            assert container.stop() == 0, container.tail()
