"""How each Kafka client is told where the cluster is and how to speak to it: the same settings in four dialects. It opens no connection."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from streams.settings import Settings

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

MOCK_API_VERSION = (2, 3)
"""`api_version` for kafka-python's clients on librdkafka's mock cluster: kafka-python 3.0.12 can't decode its answers to newer requests
(ApiVersions v3 fails with KafkaProtocolError), and with (1, 0) not those to produce."""


def librdkafka(settings: Settings) -> dict[str, Any]:
    """For confluent-kafka's Producer, Consumer and AdminClient.

    >>> librdkafka(Settings(broker="kafka://a:1,b:2"))
    {'bootstrap.servers': 'a:1,b:2', 'security.protocol': 'PLAINTEXT'}
    """
    config = {"bootstrap.servers": ",".join(settings.addresses), "security.protocol": settings.security_protocol}
    if _sasl(settings):
        config |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.username or "",
            "sasl.password": _password(settings),
        }
    if _tls(settings):
        files = {"ssl.ca": settings.ca_file, "ssl.certificate": settings.cert_file, "ssl.key": settings.key_file}
        config |= {f"{name}.location": str(file) for name, file in files.items() if file}
    return config


def kafka_python(settings: Settings) -> dict[str, Any]:
    """For kafka-python's KafkaProducer, KafkaConsumer and KafkaAdminClient.

    >>> kafka_python(Settings(broker="kafka://a:1,b:2"))
    {'bootstrap_servers': ['a:1', 'b:2'], 'security_protocol': 'PLAINTEXT'}
    """
    config: dict[str, Any] = {"bootstrap_servers": list(settings.addresses), "security_protocol": settings.security_protocol}
    if _sasl(settings):
        config |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": _password(settings),
        }
    if _tls(settings):
        files = {"ssl_cafile": settings.ca_file, "ssl_certfile": settings.cert_file, "ssl_keyfile": settings.key_file}
        config |= {name: str(file) for name, file in files.items() if file}
    return config


def aiokafka(settings: Settings) -> dict[str, Any]:
    """For aiokafka's clients where they are used beside Faust; its names are kafka-python's, but for the TLS context."""
    config = {name: value for name, value in kafka_python(settings).items() if not name.startswith("ssl_")}
    return config | ({"ssl_context": tls_context(settings)} if _tls(settings) else {})


def faust(settings: Settings) -> dict[str, Any]:
    """`broker` and `broker_credentials` for faust.App."""
    config: dict[str, Any] = {"broker": ";".join(f"kafka://{address}" for address in settings.addresses)}
    credentials = _faust_credentials(settings)
    return config if credentials is None else config | {"broker_credentials": credentials}


def tls_context(settings: Settings) -> ssl.SSLContext:
    """A context that checks the brokers' certificates and names.

    Raises:
        ssl.SSLError: a file holds no usable certificate or key.
    """
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


def _faust_credentials(settings: Settings) -> CredentialsT | None:
    from faust.auth import SASLCredentials, SSLCredentials  # noqa: PLC0415 # a tool that only lists topics needs no Faust

    context = tls_context(settings) if _tls(settings) else None
    if _sasl(settings):
        return SASLCredentials(
            username=settings.username, password=_password(settings), ssl_context=context, mechanism=settings.sasl_mechanism
        )
    return SSLCredentials(context) if context else None


def _sasl(settings: Settings) -> bool:
    return settings.security_protocol.startswith("SASL")


def _tls(settings: Settings) -> bool:
    return settings.security_protocol.endswith("SSL")


def _password(settings: Settings) -> str:
    return settings.password.get_secret_value() if settings.password else ""
