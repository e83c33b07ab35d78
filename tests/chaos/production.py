"""The service on many machines: PostgreSQL, Valkey with a password, S3; two APIs, two workers."""

import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
import redis

from app.standalone.broker import find_broker_binary
from app.storage.database import Database, upgrade
from tests.chaos import namespaces
from tests.chaos.acts import WEIGHTS, Exposed, Target
from tests.chaos.evidence import Bucket, Evidence
from tests.chaos.namespaces import Namespace
from tests.chaos.proxy import Proxy
from tests.chaos.stacks import Program, Stack, free_port
from tests.servers import Postgres, S3Server, postgres_folder

_LOOPBACK = "127.0.0.1"


@dataclass
class Production(Stack):
    """Each program is started again when it is gone. APIs and workers share nothing but the three servers.

    They reach all three through proxies. The S3 server keeps everything in its memory: it is stopped and cut off, and
    never killed. As root each worker's data folder is a disk that can be full.
    """

    in_namespaces: bool = False
    """Each worker in a network namespace of its own; needs root."""
    targets: ClassVar = ("api", "worker", "child", "forkserver", "broker", "postgres")

    def prepare(self) -> None:
        """Servers first."""
        self._start_servers()
        self._password, self._broker_port = secrets.token_hex(16), free_port()
        addresses: dict[Target, Path | tuple[str, int]] = {
            "postgres": self.postgres.socket,
            "broker": (_LOOPBACK, self._broker_port),
            "store": (_LOOPBACK, self.s3.port),
        }
        for target, address in addresses.items():
            self.proxies[target] = Proxy(address)
            self.resources.callback(self.proxies[target].close)
        self.programs = [
            Program("postgres", self.postgres.launch, self.postgres.process),
            Program("broker", self._launch_broker),
            *(self._api(number) for number in (1, 2)),
            *(self._worker(number) for number in (1, 2)),
        ]

    def _start_servers(self) -> None:
        programs = postgres_folder()
        if programs is None:
            message = "PostgreSQL's programs (initdb, postgres) are neither on PATH nor in /usr/lib/postgresql."
            raise RuntimeError(message)
        self.postgres = Postgres(programs, survives_kills=True)
        self.resources.callback(self.postgres.stop)
        self.postgres.start()
        database = Database(self.postgres.create_database("thaw"))
        upgrade(database)
        database.close()
        self.s3 = S3Server(self.folder / "s3.log")
        self.resources.callback(self.s3.stop)
        self.s3.start()
        self._bucket = Bucket(self.s3.endpoint, "thaw", "chaos")
        self._bucket.client.create_bucket(Bucket="thaw")

    def _launch_broker(self) -> "subprocess.Popen[bytes]":
        folder = self.folder / "broker"
        folder.mkdir(exist_ok=True)
        options = {"port": self._broker_port, "bind": _LOOPBACK, "requirepass": self._password, "dir": folder}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return self.spawn("broker", [str(find_broker_binary()), *words, "--appendonly", "yes", "--save", ""])

    def _api(self, number: int) -> Program:
        port, folder = free_port(), self.folder / f"api-{number}"
        folder.mkdir()
        self.urls.append(f"http://{_LOOPBACK}:{port}")
        variables = {**self._variables(_LOOPBACK, folder), "THAW_PORT": str(port)}
        command = [sys.executable, "-P", "-m", "app.main"]
        return Program("api", lambda: self.spawn(f"api-{number}", command, **variables))

    def _worker(self, number: int) -> Program:
        folder, host = self.folder / f"worker-{number}", _LOOPBACK
        command = [sys.executable, "-P", "-m", "worker", "--queues", "cpu,prepare"]
        self.own_disk(folder)
        if self.in_namespaces:
            namespace = self._namespace(number)
            host, command = namespace.host, namespace.inside(command)
        variables = self._variables(host, folder)
        return Program("worker", lambda: self.spawn(f"worker-{number}", command, **variables))

    def _namespace(self, number: int) -> Namespace:
        if not namespaces.possible():
            message = "Network namespaces need Linux, root, and `ip` of iproute2 on PATH. Leave --namespaces out."
            raise RuntimeError(message)
        namespace = Namespace(number)
        self.resources.callback(namespace.close)
        self.links.append(namespace)
        return namespace

    def _variables(self, host: str, folder: Path) -> dict[str, str]:
        """The settings of a program that reaches the proxies at this address."""
        at = {target: f"{host}:{proxy.listen(host)}" for target, proxy in self.proxies.items()}
        return {
            "THAW_DATABASE_URL": f"postgresql+psycopg://thaw@{at['postgres']}/thaw",
            "THAW_REDIS_URL": f"redis://:{self._password}@{at['broker']}/0",
            "THAW_ARTIFACTS_URL": f"s3://{self._bucket.name}/{self._bucket.prefix}",
            "THAW_S3_ENDPOINT": f"http://{at['store']}",
            "THAW_S3_ACCESS_KEY": "key-of-thaw",
            "THAW_S3_SECRET_KEY": "hunter2-of-the-store",
            "THAW_API_KEY": self.api_key,
            "THAW_DATA_DIR": str(folder),
        }

    def exposed(self) -> Exposed:
        """The store is stopped, too."""
        everything = super().exposed()
        return {**everything, "stop": list(WEIGHTS["stop"])}

    def find(self, target: Target) -> list[psutil.Process]:
        """The store is no program that anybody starts again."""
        return [psutil.Process(self.s3.pid)] if target == "store" else super().find(target)

    def broker(self) -> "redis.Redis":
        """Through its own port."""
        return redis.Redis(host=_LOOPBACK, port=self._broker_port, password=self._password, socket_timeout=5)

    def evidence(self) -> Evidence:
        """PostgreSQL, through its socket, and the bucket."""
        return Evidence(f"host={self.postgres.folder} dbname=thaw user=thaw", self._bucket)
