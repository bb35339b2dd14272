"""The first word with the brokers: an admin client that is known to get answers, or an error that says what keeps it from them.

librdkafka tries again for ever, also with a wrong password or an authority that did not sign the broker's certificate, and calls both a
broken transport in the end; what it saw it tells its `error_cb` only.
"""

from __future__ import annotations

from collections import Counter
from time import monotonic

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from engine.errors import BrokerError
from streams import security
from streams.settings import Settings

POLL_S = 0.05
LOOK_S = 0.5
SURE = 2
"""Times that a refusal is seen before it is believed: a broker that is just going down may cut one handshake."""
REMEDIES = {
    KafkaError._AUTHENTICATION: (  # noqa: SLF001 - confluent-kafka's names for local errors begin so
        "authentication",
        "check HEADWATER_USERNAME, HEADWATER_PASSWORD and HEADWATER_SASL_MECHANISM",
    ),
    KafkaError._SSL: (  # noqa: SLF001
        "tls",
        "check HEADWATER_CA_FILE, and HEADWATER_CERT_FILE and HEADWATER_KEY_FILE where the broker asks for a certificate",
    ),
}


def reached(settings: Settings, timeout_s: float) -> AdminClient:
    """An admin client to which a broker has answered.

    Raises:
        BrokerError: no broker answered in time, or one refused user or certificate: then at once.
    """
    seen: list[KafkaError] = []
    client = AdminClient(
        {
            **security.librdkafka(settings),
            "log_level": 0,
            "socket.timeout.ms": round(timeout_s * 1000),
            "error_cb": seen.append,
            "reconnect.backoff.max.ms": 1000,
        }
    )
    late = monotonic() + timeout_s
    while True:
        try:
            client.list_topics(timeout=min(LOOK_S, timeout_s))
            return client
        except KafkaException as error:
            client.poll(POLL_S)
            counted = Counter(one.code() for one in seen)
            for code, (name, remedy) in REMEDIES.items():
                if counted[code] >= SURE:
                    found = next(one.str() for one in seen if one.code() == code)
                    raise BrokerError(name, found, "a broker that takes this client", remedy) from error
            if monotonic() > late:
                telling = [one for one in seen if one.code() != KafkaError._ALL_BROKERS_DOWN] or [error.args[0]]  # noqa: SLF001
                remedy = "check HEADWATER_BROKER, HEADWATER_SECURITY_PROTOCOL and the network"
                found = telling[-1].str()
                raise BrokerError("transport", found, "an answer from the cluster", remedy, retryable=True) from error
