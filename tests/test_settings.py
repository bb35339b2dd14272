"""Settings: where values come from, what is said about wrong ones, and what each Kafka client is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import BadSettings
from engine.records import EVENT_TYPES
from streams import security
from streams.settings import Settings, load, shown, unit_of


def test_defaults_are_whole() -> None:
    """Rule: with nothing given there are settings, each described, each default; every event type of the contract has a weight."""
    settings = load({"PATH": "x", "HEADWATER_TEST_BROKER": "h:1"})
    assert set(settings.sources.values()) == {"default"}
    assert all(field.description for field in Settings.model_fields.values())
    assert set(settings.event_weights) == EVENT_TYPES


def test_environment_goes_before_the_file(tmp_path: Path) -> None:
    """Rule: defaults, then the file, then the environment; the source of each is known; an empty variable is none."""
    file = tmp_path / "headwater.toml"
    file.write_text('broker = "kafka://a:1"\nlist_size = 7\nsurfaces = ["home", "cart"]\n[event_weights]\nlisten = 2\n')
    environ = {"HEADWATER_CONFIG": str(file), "HEADWATER_LIST_SIZE": "9", "HEADWATER_PREFIX": ""}
    settings = load(environ)
    assert (settings.broker, settings.list_size, settings.surfaces) == ("kafka://a:1", 9, ("home", "cart"))
    assert settings.event_weights["listen"] == 2
    assert settings.event_weights["click"] == 1
    assert [settings.sources[n] for n in ("broker", "list_size", "prefix")] == ["file", "env", "default"]
    assert load({"HEADWATER_SURFACES": "a, b", "HEADWATER_EVENT_WEIGHTS": "view=0.2"}).surfaces == ("a", "b")


def test_all_problems_at_once() -> None:
    """Rule: every wrong, unknown and missing value is named at once, with what was found, expected, and the variable to set."""
    environ = {
        "HEADWATER_BROKER": "localhost",
        "HEADWATER_PARTITONS": "8",
        "HEADWATER_LIST_SIZE": "0",
        "HEADWATER_LIST_TTL_S": "nan",
        "HEADWATER_SECURITY_PROTOCOL": "SASL_SSL",
        "HEADWATER_USERNAME": "me",
        "HEADWATER_EVENT_WEIGHTS": "view",
        "HEADWATER_CA_FILE": "no/such/file",
    }
    with pytest.raises(BadSettings) as caught:
        load(environ)
    problems = {p.field: p for p in caught.value.problems}
    assert set(problems) == {"broker", "partitons", "list_size", "list_ttl_s", "password", "event_weights", "ca_file"}
    assert "HEADWATER_PARTITIONS?" in problems["partitons"].remedy
    assert "HEADWATER_LIST_SIZE" in problems["list_size"].remedy
    assert all(p.found and p.expected and p.code for p in problems.values())


def test_an_unreadable_file_is_a_problem_among_others(tmp_path: Path) -> None:
    """Rule: a file that is missing or no TOML is named together with the other problems."""
    file = tmp_path / "x.toml"
    file.write_text("broker = ")
    for path in (file, tmp_path / "none.toml"):
        with pytest.raises(BadSettings) as caught:
            load({"HEADWATER_LIST_SIZE": "0"}, path)
        assert [p.field for p in caught.value.problems] == ["config", "list_size"]
    file.write_text("list_sizes = 3")
    with pytest.raises(BadSettings, match=f"did you mean list_size in {file}"):
        load({}, file)


def test_secrets_are_never_shown() -> None:
    """Rule: a password stands in no output and in no error."""
    environ = {"HEADWATER_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "HEADWATER_USERNAME": "me", "HEADWATER_PASSWORD": "hush"}
    settings = load(environ)
    assert "hush" not in repr(settings) + shown(settings.password)
    with pytest.raises(BadSettings) as caught:
        load({**environ, "HEADWATER_SASL_MECHANISM": "x"})
    assert "hush" not in str(caught.value)


def test_every_number_has_a_unit() -> None:
    """Rule: a number that is not a port has its unit."""
    numbers = [n for n, field in Settings.model_fields.items() if field.annotation in {int, float} and not n.endswith("port")]
    assert all(unit_of(n) for n in numbers)


def test_one_identity_in_every_dialect() -> None:
    """Rule: broker, protocol, mechanism, user and password reach each client under its own names."""
    settings = Settings(
        broker="kafka://a:1,b:2",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-256",
        username="me",
        password="hush",  # type: ignore[arg-type]  # pydantic wraps it
    )
    assert security.librdkafka(settings) == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "hush",
    }
    python = security.kafka_python(settings)
    assert (python["sasl_plain_username"], python["sasl_plain_password"], python["sasl_mechanism"]) == ("me", "hush", "SCRAM-SHA-256")
    assert security.aiokafka(settings)["ssl_context"].check_hostname
    faust = security.faust(settings)
    assert faust["broker"] == "kafka://a:1;kafka://b:2"
    credentials = faust["broker_credentials"]
    assert (credentials.username, credentials.password, credentials.protocol.value) == ("me", "hush", "SASL_SSL")
    assert "broker_credentials" not in security.faust(Settings())


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("objective_weights", "purchas=3", "event_weights gives more than 0, not 'purchas'"),
        ("objective_weights", "dislike=2", "event_weights gives more than 0, not 'dislike'"),
        ("objective_weights", "purchase=-1", "weights from 0 to 100, not purchase=-1"),
        ("objective_weights", "purchase=1000", "weights from 0 to 100, not purchase=1000"),
        ("objective_weights", "purchase=nan", "number"),
        ("objective_weights", "purchase", "number"),
        ("objective_values", "purchase=0", "values above 0, not purchase=0"),
        ("objective_values", "listen=5", "event_weights gives more than 0, not 'listen'"),
    ],
)
def test_an_objective_that_makes_no_sense(name: str, value: str, expected: str) -> None:
    """Rule: unknown types, types that nothing is learned from, and numbers without a meaning are named with what may stand there."""
    with pytest.raises(BadSettings) as caught:
        load({f"HEADWATER_{name.upper()}": value})
    (problem,) = caught.value.problems
    assert problem.field == name
    assert expected in problem.expected


def test_an_objective() -> None:
    """Rule: by default every example counts once; own types count where event_weights knows them."""
    goal = load({"HEADWATER_OBJECTIVE_WEIGHTS": "purchase=3,listen=2", "HEADWATER_EVENT_WEIGHTS": "listen=1"}).objective
    assert [goal.weight(kind, 5.0) for kind in ("click", "purchase", "listen")] == [1.0, 3.0, 2.0]
    assert load({}).objective.weight("purchase", 5.0) == 1.0
