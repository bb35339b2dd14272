"""Dashboard and alert rules name what processes expose; Prometheus itself, where it is installed, checks and tests the rules.

Grafana is no Debian package, so its provisioning is held to its file format only, not started.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from export.trainer import Meters
from streams.gateway.metrics import Metrics as GatewayMetrics
from streams.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS, GRAFANA = ROOT / "ops" / "prometheus", ROOT / "ops" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "headwater.json").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus adds to each sample."""
SUFFIXES: Mapping[type[MetricWrapperBase], tuple[str, ...]] = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}
SECTIONS = ["Rate", "Freshness", "Lag", "Lists", "Generation", "Quality", "Memory", "Gateway"]


def metrics_of_processes() -> Iterator[MetricWrapperBase]:
    """The metrics of worker, trainer and gateway."""
    for process in (Metrics(), Meters(), GatewayMetrics()):
        yield from _metrics(vars(process).values())


def _metrics(values: Iterable[Any]) -> Iterator[MetricWrapperBase]:
    return (value for value in values if isinstance(value, MetricWrapperBase))


def samples() -> dict[str, set[str]]:
    """Every name that a query may use, with its labels."""
    found = {}
    for metric in metrics_of_processes():
        name, labels = next(iter(metric.describe())).name, set(metric._labelnames)  # noqa: SLF001 # no public way to ask
        for suffix in SUFFIXES[type(metric)]:
            found[f"{name}{suffix}"] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def queries() -> Iterator[tuple[str, str, str]]:
    """Where it stands, expression, and the text that names its labels."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"], target["legendFormat"]
    for rule in RULES:
        texts = "".join(rule["annotations"].values())
        yield rule["alert"], rule["expr"], " ".join(f"{{{{{name}}}}}" for name in re.findall(r"\$labels\.(\w+)", texts))


def problems(expression: str, legend: str, known: Mapping[str, set[str]]) -> list[str]:
    """What an expression names that nobody exposes."""
    names = set(re.findall(r"\b(?:headwater_\w+|up)\b", expression))
    wrong = [f"no metric {name}" for name in names if name not in known]
    labels = {label for name in names & set(known) for label in known[name]} | OF_PROMETHEUS
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
        selected = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        wrong += [f"{name} has no label {label}" for label in selected - known.get(name, set()) - OF_PROMETHEUS]
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", legend))
    return wrong + [f"no label {label}" for label in (grouped | shown) - labels]


def test_queries_name_what_is_exposed() -> None:
    """Rule: every metric and label in the dashboard's queries and in the alert rules is one that our processes expose."""
    known = samples() | {"up": set()}
    found = list(queries())
    assert len(found) > len(RULES) + len(SECTIONS)
    assert {where: wrong for where, expression, legend in found if (wrong := problems(expression, legend, known))} == {}


@pytest.mark.parametrize(
    "expression, legend",
    [
        ("headwater_lists", ""),
        ('rate(headwater_lists_total{surface="home"}[5m])', ""),
        ("sum by (surface) (rate(headwater_lists_total[5m]))", ""),
        ("headwater_pending_users", "{{topic}}"),
    ],
)
def test_a_wrong_name_is_seen(expression: str, legend: str) -> None:
    """Rule: a missing suffix, and a label that a metric lacks in selector, grouping or legend, are problems."""
    assert problems(expression, legend, samples())


def test_every_metric_of_the_issue_has_its_row() -> None:
    """Rule: the dashboard has a row for each thing to watch, every panel a query and a description; panels do not overlap."""
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == SECTIONS
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or (panel["targets"] and panel["description"]), panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafana_finds_what_it_is_to_show() -> None:
    """Rule: the data source that panels name is provisioned, and points at the stack's Prometheus; dashboards stand where it looks."""
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"][0]
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "headwater.yml").read_text(encoding="utf-8"))["providers"][0]
    grafana = COMPOSE["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    assert mounts["./ops/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./ops/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / "dashboards" / home.name).is_file()
    assert str(home.parent) == provider["options"]["path"]


def test_alerts_say_what_to_do() -> None:
    """Rule: each alert has a severity, says what is wrong and what to do, and stands in the runbook that it names."""
    document, section = "docs/operations.md", "## Alerts"
    text = (ROOT / document).read_text(encoding="utf-8").partition(section)[2]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert {"summary", "description", "runbook"} == set(rule["annotations"]), rule["alert"]
        assert rule["annotations"]["runbook"] == f"{document}#alerts"
        assert f"`{rule['alert']}`" in text, rule["alert"]


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_prometheus_takes_them(arguments: tuple[str, ...]) -> None:
    """Rule: Prometheus reads configuration and rules; each alert fires when it should, and a healthy installation is quiet."""
    if shutil.which("promtool") is None:
        pytest.skip("wants promtool: apt-get install prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested() -> None:
    """Rule: the unit tests of the rules speak of each alert."""
    text = (PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in text] == []
