"""The settings of one installation, built once from a mapping and a file. Not a global object: whoever needs them is handed them."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from engine.errors import BadSettings, Problem, shorten
from engine.objective import MOST, Objective
from engine.records import K_MAX, SURFACE_PATTERN

ENV_PREFIX = "HEADWATER_"
RESERVED = re.compile(r"HEADWATER_(CONFIG|TEST_\w+)\Z")
"""Variables that are no settings: the file's place, and what the tests are told."""
ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})\Z")
LARGEST_PORT = 65535
MASK = "********"
EVENT_WEIGHTS = {
    "view": 0.3,
    "click": 1.0,
    "cart": 2.0,
    "purchase": 3.0,
    "like": 2.0,
    "dislike": -2.0,
    "rating": 1.0,
    "dwell": 0.5,
    "skip": -0.5,
    "impression": 0.0,
    "search": 0.0,
}


def _listed(value: Any) -> Any:
    """A list from text: JSON, or parts between commas."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",") if part.strip()]


def _mapped(value: Any) -> Any:
    """A table from text: JSON, or `name=number` between commas."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("{") else dict(pair.partition("=")[::2] for pair in _listed(value))
    return value


def _added(value: Any) -> Any:
    """The same, added to the defaults."""
    value = _mapped(value)
    return {**EVENT_WEIGHTS, **value} if isinstance(value, dict) else value


def _about(default: Any, text: str, unit: str = "", **limits: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"unit": unit}, **limits)


Surface = Annotated[str, Field(pattern=SURFACE_PATTERN.replace(r"\A", "^").replace(r"\Z", "$"))]
Surfaces = Annotated[tuple[Surface, ...], BeforeValidator(_listed), Field(min_length=1)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Weights = Annotated[dict[str, float], BeforeValidator(_added)]
Numbers = Annotated[dict[str, float], BeforeValidator(_mapped)]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class Settings(BaseModel):
    """Every setting with its unit; frozen. `sources` says where each value came from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    # The cluster
    broker: str = _about("kafka://127.0.0.1:9092", "the Kafka cluster: kafka://host:port, more brokers after commas")
    security_protocol: SecurityProtocol = _about("PLAINTEXT", "how brokers are spoken to: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    sasl_mechanism: Mechanism = _about("SCRAM-SHA-512", "how the user is proven with SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    username: str | None = _about(None, "the user, with SASL")
    password: SecretStr | None = _about(None, "the user's password, with SASL")
    ca_file: Path | None = _about(
        None, "PEM file of the authorities that brokers' certificates are checked against, with TLS; none: the system's"
    )
    cert_file: Path | None = _about(None, "PEM file of this client's certificate, where brokers ask for one")
    key_file: Path | None = _about(None, "PEM file of that certificate's private key")
    prefix: str = _about("", "what all topic names start with: one prefix is one installation", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    partitions: int = _about(8, "N: partitions of all topics by user, when they are created", "partitions", ge=1, le=4096)
    shared_partitions: int = _about(4, "partitions of items, rules and what all workers read, when created", "partitions", ge=1, le=4096)
    replication: int = _about(-1, "copies of each partition, when created; -1: the broker's default", "copies", ge=-1, le=15)
    retention_days: float = _about(30, "how long events, exposures and dead letters stay on their topics", "days", gt=0)

    # Where things are
    state_dir: Path = _about(Path("var/state"), "folder of this worker's tables; two workers on a machine need two")
    registry: str = _about("var/registry", "where generations are published: a folder or any fsspec URL")
    registry_cache: Path = _about(Path("var/cache"), "folder for generations fetched from an object store, shared by a host's workers")
    web_host: str = _about("127.0.0.1", "address that /healthz, /readyz and /metrics listen on; 0.0.0.0: all")
    web_port: int = _about(6066, "port of the same; two workers on a machine need two", ge=1, le=LARGEST_PORT)
    log_level: Literal["debug", "info", "warning", "error"] = _about("info", "least important log line that is written")
    log_format: Literal["text", "json"] = _about("text", "one line of key=value, or one JSON object a line")

    # Time
    checkpoint_interval_s: float = _about(
        5, "how often state is written to changelog and disk, and offsets are committed", "s", ge=0.1, le=600
    )
    session_timeout_s: float = _about(20, "silence after which the group gives a dead worker's partitions away", "s", ge=6, le=300)
    future_tolerance_s: float = _about(300, "how far an event's time may be ahead of the clock before it counts as now", "s", ge=0)
    list_ttl_s: float = _about(86_400, "how long a list is valid", "s", gt=0)

    # Lists
    list_size: int = _about(10, "items of a standing list", "items", ge=1, le=K_MAX)
    surfaces: Surfaces = _about(("home",), "placements that have standing lists, between commas")
    renew_lists_per_s: float = _about(
        50,
        "standing lists per second and worker, at most, made again as a tenth more is known than when they were made; 0: none",
        "1/s",
        ge=0,
    )
    fatigue: float = _about(
        0,
        "how much it counts against an item that `impression` events showed to a user again and again, and that was not taken: "
        "n times divide its odds by n to this power, less as weeks go by; 0: not at all, and nothing of it is kept",
        "strength",
        ge=0,
        le=5,
    )
    diversity: float = _about(
        0,
        "how different the items of a list are to be: what the largest cosine with an item before it takes off a score; 0: scores alone "
        "decide. Searches are left as they are",
        "score",
        ge=0,
        le=100,
    )
    most_per_creator: int = _about(0, "items of one creator in a list at most, searches excepted; 0: any number", "items", ge=0)
    most_per_category: int = _about(0, "items of one category in a list at most, searches excepted; 0: any number", "items", ge=0)
    seen_cap: int = _about(4000, "a user's items that are remembered as seen and kept out of lists", "items", ge=0)

    # Learning
    event_weights: Weights = _about(
        EVENT_WEIGHTS, "how much an event of each type says, added to the defaults: view=0.2,listen=1", "weight"
    )
    objective_weights: Numbers = _about(
        {}, "what lists are to bring about: how much an event of a type counts for the ranker, 1 if not named: purchase=3,view=0", "weight"
    )
    objective_values: Numbers = _about(
        {}, "types whose events count by their value as well, each with the value that counts once: purchase=25", "value"
    )
    history_size: int = _about(100, "a user's last events that state keeps", "events", ge=1, le=10_000)
    dedupe_events: int = _about(1000, "a user's last event ids that a repeat is looked up in", "events", ge=0, le=100_000)
    dedupe_days: float = _about(7, "age beyond which an event id is forgotten", "days", ge=0)
    pair_window: int = _about(15, "a user's last items that a new one is paired with", "items", ge=1, le=200)
    neighbour_cap: int = _about(256, "items that an item keeps as often met together", "items", ge=1, le=1000)
    examples_per_s: float = _about(50, "training examples written per second and worker, at most", "1/s", ge=0)

    # Budgets
    block_cache_mb: int = _about(64, "RocksDB's block cache, for all partitions together", "MiB", ge=1)
    write_buffer_mb: int = _about(4, "RocksDB's write buffer, per partition", "MiB", ge=1)
    rows_in_memory: int = _about(100_000, "users' rows held decoded in memory, per worker", "rows", ge=1000)
    max_record_bytes: int = _about(1_048_576, "largest record that is read or written", "bytes", ge=1024, le=100 * 2**20)
    scoring_batch: int = _about(64, "users whose lists are made in one go, at most", "users", ge=1, le=4096)
    encoder_threads: int = _about(1, "threads that one text is encoded with", "threads", ge=1, le=256)

    # Training
    train_dir: Path = _about(Path("var/train"), "folder of a cycle under way: what was read and tuned, so that a killed one goes on")
    train_every_s: float = _about(
        21_600, "time after which the trainer begins a cycle, if there are train_least_events new events", "s", gt=0
    )
    train_after_events: int = _about(50_000, "new events after which it begins one at once; 0: only by time", "events", ge=0)
    train_least_events: int = _about(1_000, "new events below which nothing is trained", "events", ge=10)
    train_events: int = _about(200_000, "newest events that a cycle reads at most: 100 bytes of memory each", "events", ge=1_000)
    train_held_out: float = _about(0.1, "share of a cycle's events, the newest, by which generations are compared", "share", gt=0, lt=0.9)
    train_method: Literal["layers", "lora"] = _about("layers", "what learns of the last layers: all of it, or low-rank adapters (LoRA)")
    train_layers: int = _about(2, "layers of the encoder that learn, from the last", "layers", ge=1, le=48)
    train_epochs: int = _about(1, "times that a cycle goes through its events", "epochs", ge=1, le=100)
    train_rate: float = _about(1e-4, "learning rate of the encoder (AdamW)", "1/step", gt=0, le=0.1)
    train_steps: int = _about(2_000, "steps of a cycle at most, some second each on two cores", "steps", ge=1)
    train_threads: int = _about(0, "threads of a cycle; 0: one per core", "threads", ge=0, le=256)
    train_precision: Literal["auto", "fp32"] = _about(
        "auto", "form that serves: the fastest that is near enough to fp32, or fp32 itself, as a GPU wants it", "form"
    )
    robot_events_per_day: int = _about(
        2_000, "events on one day from which on a user is taken for a robot, and not learned from", "events", ge=10
    )
    trainer_port: int = _about(6067, "port of the trainer's /healthz and /metrics, on web_host", ge=1, le=LARGEST_PORT)

    # Gateway
    gateway_host: str = _about("127.0.0.1", "address that the gateway listens on; one that is not loopback wants gateway_token")
    gateway_port: int = _about(8080, "port of the same", ge=1, le=LARGEST_PORT)
    gateway_token: SecretStr | None = _about(None, "what clients must send as `Authorization: Bearer …`; none: no token", min_length=16)
    gateway_hosts: Hosts = _about(
        (), "names beside localhost that the gateway is called by, between commas; with any, and on loopback, a Host must be one"
    )
    gateway_proxies: str = _about("", "addresses of proxies whose X-Forwarded-For is believed, between commas; *: all")
    gateway_body_kb: int = _about(1024, "largest body of a request", "KiB", ge=1, le=100 * 1024)
    gateway_batch: int = _about(1000, "events in one request, at most", "events", ge=1, le=100_000)
    gateway_rate_per_s: float = _about(500, "requests per second of one client address, twice as many at once; 0: no limit", "1/s", ge=0)
    gateway_connections: int = _about(2000, "connections open at once", "connections", ge=1)
    gateway_streams: int = _about(1000, "streams of lists open at once", "streams", ge=0)
    gateway_streams_per_client: int = _about(100, "the same of one client address", "streams", ge=0)
    gateway_heartbeat_s: float = _about(15, "silence on a stream after which it says that it lives", "s", ge=0.1, le=3600)
    gateway_deadline_s: float = _about(2, "how long an answer of the workers is waited for, unless the request says", "s", ge=0.01, le=60)
    gateway_asks: int = _about(1000, "requests to the workers that wait for their answers at once", "requests", ge=1)
    gateway_lists: int = _about(100_000, "standing lists held in memory, those used last", "lists", ge=0)
    gateway_lists_mb: int = _about(256, "memory for them", "MiB", ge=0)
    gateway_items_mb: int = _about(256, "memory for the catalogue, for searching and titles; what is beyond is counted", "MiB", ge=0)
    gateway_users: int = _about(5000, "users whose last events are held in memory, 50 each, those active last", "users", ge=0)
    gateway_tail: int = _about(20_000, "events read back at the start, for users' histories", "events", ge=0)

    @field_validator("broker")
    @classmethod
    def _is_broker(cls, value: str) -> str:
        for address in value.removeprefix("kafka://").split(","):
            match = ADDRESS.fullmatch(address.strip())
            if not match or not 0 < int(match[2]) <= LARGEST_PORT:
                raise ValueError(f"kafka://host:port[,host:port…], not {address.strip()!r}")
        return value

    @field_validator("username", "password")
    @classmethod
    def _is_there_with_sasl(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and str(info.data.get("security_protocol")).startswith("SASL"):
            raise ValueError("a value, as security_protocol asks for SASL")
        return value

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("a file that is there")
        return value

    @field_validator("key_file")
    @classmethod
    def _comes_with_its_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "cert_file" in info.data and (value is None) != (info.data["cert_file"] is None):
            raise ValueError("cert_file and key_file together, or neither")
        return value

    @field_validator("objective_weights", "objective_values")
    @classmethod
    def _is_an_objective(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        for name, number in value.items():
            known = info.data.get("event_weights", {name: 1.0})
            if known.get(name, 0.0) <= 0:
                raise ValueError(f"types that event_weights gives more than 0, not {name!r}: nothing is learned from others")
            if info.field_name == "objective_weights" and not 0 <= number <= MOST:
                raise ValueError(f"weights from 0 to {MOST:g}, not {name}={number:g}")
            if info.field_name == "objective_values" and number <= 0:
                raise ValueError(f"values above 0, not {name}={number:g}")
        return value

    @property
    def objective(self) -> Objective:
        """What lists are to bring about."""
        return Objective(self.objective_weights, self.objective_values)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The brokers as host:port."""
        return tuple(address.strip() for address in self.broker.removeprefix("kafka://").split(","))

    @property
    def app_id(self) -> str:
        """The consumer group that all workers of the installation share."""
        return f"{self.prefix}headwater"

    @property
    def sources(self) -> Mapping[str, str]:
        """Per setting: `default`, `env`, or `file`."""
        return self._sources


def load(environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Build the settings: defaults, then the TOML file (else the one of HEADWATER_CONFIG), then filled HEADWATER_… variables.

    Raises:
        BadSettings: every wrong, unknown or missing value at once, each with its remedy.
    """
    file = file or (Path(environ["HEADWATER_CONFIG"]) if environ.get("HEADWATER_CONFIG") else None)
    from_file, problems = _read(file) if file else ({}, [])
    from_env = {
        k.removeprefix(ENV_PREFIX).lower(): v for k, v in environ.items() if v and k.startswith(ENV_PREFIX) and not RESERVED.match(k)
    }
    values = {**from_file, **from_env}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [_problem(detail, "env" if detail["loc"][0] in from_env else file) for detail in error.errors(include_url=False)]
    if problems:
        raise BadSettings(problems)
    settings._sources.update(  # noqa: SLF001 # of the object that was made here
        {name: "env" if name in from_env else "file" if name in from_file else "default" for name in Settings.model_fields}
    )
    return settings


def _read(file: Path) -> tuple[dict[str, Any], list[Problem]]:
    expected, remedy = "a TOML file of settings", "correct the file, or the path in --config or HEADWATER_CONFIG"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")), []
    except FileNotFoundError:
        remedy = "correct the path; `headwater up` keeps its var/up/headwater.toml only while it runs"
        return {}, [Problem("config", "no_file", str(file), expected, remedy)]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [Problem("config", "unreadable_file", shorten(f"{file}: {error}", 200), expected, remedy)]


def _problem(detail: ErrorDetails, source: str | Path | None) -> Problem:
    name = str(detail["loc"][0])
    field = Settings.model_fields.get(name)
    place = f"{ENV_PREFIX}{name.upper()}" if source == "env" or not source else f"{name} in {source}"
    if field is None:
        near = difflib.get_close_matches(name, Settings.model_fields, n=1)
        remedy = f"did you mean {place.replace(name, near[0]).replace(name.upper(), near[0].upper())}?" if near else f"remove {place}"
        return Problem(name, "unknown_setting", place, "a setting that `headwater config` lists", remedy)
    secret = "SecretStr" in str(field.annotation)
    found = MASK if secret and detail["input"] is not None else shorten(repr(detail["input"]))
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    remedy = f"set {place}: {field.description}"
    return Problem(name, detail["type"], found, text, remedy)


def shown(value: Any) -> str:
    """A setting's value as text that reads back; secrets are masked.

    >>> shown(("home", "cart")), shown({"view": 0.3}), shown(SecretStr("x")), shown(None)
    ('home,cart', 'view=0.3', '********', '')
    """
    match value:
        case None:
            return ""
        case SecretStr():
            return MASK
        case tuple():
            return ",".join(value)
        case dict():
            return ",".join(f"{k}={v:g}" for k, v in value.items())
    return str(value)


def unit_of(name: str) -> str:
    """The unit of a setting, "" for one without.

    >>> unit_of("list_ttl_s")
    's'
    """
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""
