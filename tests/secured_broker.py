"""Apache Kafka with users, rights and certificates, for tests: one broker that listens with SASL, with SASL over TLS, and with mutual TLS.

Everybody but the administrator has the rights that `allow` gives, and no others.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType

from tests.worker_process import free_port

START_S = 90.0
ADMIN, ADMIN_PASSWORD = "admin", "admin-secret"
MECHANISM = "SCRAM-SHA-512"
PROTOCOLS = ("SASL_PLAINTEXT", "SASL_SSL", "SSL")
Right = tuple[str, str, str]
"""Kind of resource (topic, group, cluster), its name, operation; a name that ends with * means all that begin so."""


class Authority:
    """A certificate authority of its own, with openssl."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self.file = folder / f"{name}.pem"
        self._openssl("req", "-x509", "-keyout", f"{name}.key", "-out", self.file.name, "-subj", f"/CN={name}", "-days", "2")

    def issue(self, name: str, *, host: str | None = None) -> tuple[Path, Path]:
        """Certificate and key for a host or a client, PEM files."""
        extension = f"subjectAltName=IP:{host}" if host else "extendedKeyUsage=clientAuth"
        self._openssl("req", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self._folder / f"{name}.ext").write_text(extension + "\n")
        signing = ("-CA", self.file.name, "-CAkey", f"{self._name}.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        self._run("openssl", "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        self._run("openssl", arguments[0], "-newkey", "rsa:2048", "-nodes", *arguments[1:])

    def _run(self, *command: str) -> None:
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True)


class SecuredBroker:
    """The broker; `users`: name -> password."""

    def __init__(self, folder: Path, users: Mapping[str, str]) -> None:
        self._folder, self._users = folder, {ADMIN: ADMIN_PASSWORD, **users}
        self._script = str(Path(os.environ["KAFKA_HOME"]) / "kafka")
        self.authority = Authority(folder / "tls", "authority")
        self.stranger = Authority(folder / "tls", "stranger")
        self.addresses: dict[str, str] = {}

    def __enter__(self) -> Self:
        ports = {"SASL_PLAINTEXT": "{client_port}", "SASL_SSL": str(free_port()), "SSL": str(free_port())}
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
        certificate, key = self.authority.issue("broker", host="127.0.0.1")
        store = self._folder / "tls" / "broker-store.pem"
        store.write_text(key.read_text() + certificate.read_text())
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        properties = {
            "listeners": ",".join([*listeners, "CONTROLLER://127.0.0.1:{controller_port}"]),
            "advertised.listeners": ",".join(listeners),
            "inter.broker.listener.name": "SASL_PLAINTEXT",
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:ANONYMOUS",  # nobody: the controller, which listens to itself only
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        }
        for name in ("sasl_plaintext", "sasl_ssl"):
            jaas = f'{login} username="{ADMIN}" password="{ADMIN_PASSWORD}";'
            properties[f"listener.name.{name}.scram-sha-512.sasl.jaas.config"] = jaas
        given = [part for name, value in properties.items() for part in ("--property", f"{name}={value}")]
        for name, password in self._users.items():
            given += ["--format-arg=--add-scram", f"--format-arg={MECHANISM}=[name={name},password={password}]"]
        for _ in range(3):  # one cluster id in 64 that the script draws begins with "-", which Kafka does not take
            where = self._folder / f"kafka-{free_port()}"
            started = subprocess.run(
                [self._script, "start", "--dir", str(where), *given], check=False, capture_output=True, text=True, timeout=START_S
            )
            if started.returncode == 0:
                break
        assert started.returncode == 0, started.stdout + started.stderr
        self._where = where
        first = started.stdout.split()[-1]
        self.addresses = {name: first if "{" in port else f"127.0.0.1:{port}" for name, port in ports.items()}
        self._admin = AdminClient({**self._login(ADMIN, ADMIN_PASSWORD), "log_level": 0})
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([self._script, "stop", "--dir", str(self._where)], check=False, capture_output=True, timeout=START_S)

    def _login(self, user: str, password: str) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.addresses["SASL_PLAINTEXT"],
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": password,
        }

    def environ(self, protocol: str, user: str, password: str | None = None, authority: Path | None = None) -> dict[str, str]:
        """The settings with which a process speaks to the broker as a user."""
        found = {"HEADWATER_BROKER": f"kafka://{self.addresses[protocol]}", "HEADWATER_SECURITY_PROTOCOL": protocol}
        if protocol.startswith("SASL"):
            found |= {"HEADWATER_USERNAME": user, "HEADWATER_PASSWORD": password or self._users[user]}
        if protocol.endswith("SSL"):
            found["HEADWATER_CA_FILE"] = str(authority or self.authority.file)
        if protocol == "SSL":
            certificate, key = self.authority.issue(user)
            found |= {"HEADWATER_CERT_FILE": str(certificate), "HEADWATER_KEY_FILE": str(key)}
        return found

    def allow(self, user: str, rights: Iterable[Right]) -> None:
        """Give rights; whoever asks next has them."""
        self._each(self._admin.create_acls([_binding(user, right) for right in rights]))

    @staticmethod
    def _each(answers: Mapping[Any, Any]) -> None:
        for answer in answers.values():
            answer.result(20)


def _binding(user: str, right: Right) -> AclBinding:
    kind, name, operation = right
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") and name != "*" else ResourcePatternType.LITERAL
    return AclBinding(
        {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER}[kind],
        name.removesuffix("*") if pattern == ResourcePatternType.PREFIXED else name,
        pattern,
        f"User:{user}",
        "*",
        AclOperation[operation.upper()],
        AclPermissionType.ALLOW,
    )
