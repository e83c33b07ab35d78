"""Settings: environment variables with the prefix `THAW_`, each with a unit in its name and a description.

`THAW_<NAME>_FILE` names a file that holds the value, for secrets. Nothing is read at import: `create_app`
and the worker's start call `Settings()`.
"""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.domain.errors import MisconfiguredError

GIB = 1024**3

_DATABASE_URL = re.compile(r"(sqlite(\+pysqlite)?|postgresql(\+psycopg)?)://")
_ENCODED = (
    ", with @ / : ? # % and the like in user and password percent-encoded (what was set is not shown: it may have a "
    "password)"
)


class FileSecrets(PydanticBaseSettingsSource):
    """`THAW_DATABASE_URL_FILE=/run/secrets/db` gives `database_url` the text of that file, stripped."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ANN401, ARG002 (the signature is pydantic's)
        """The text of the file that `THAW_<NAME>_FILE` names, if it is set."""
        variable = f"THAW_{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        return (_text_of(Path(path), variable) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every setting that has a file."""
        found = {name: self.get_field_value(None, name)[0] for name in self.settings_cls.model_fields}
        return {name: value for name, value in found.items() if value is not None}


def _text_of(path: Path, variable: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        message = f"{variable} names {path}, which cannot be read: {error.strerror}."
        raise ValueError(message) from error
    except UnicodeDecodeError:
        message = f"{variable} names {path}, which is no text in UTF-8."
        raise ValueError(message) from None


class Settings(BaseSettings):
    """All settings of the service, with units in their names."""

    # An error that concerns several settings would show the input of all of them, which has secrets.
    model_config = SettingsConfigDict(
        env_prefix="THAW_", env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    data_dir: Path = Field(default_factory=lambda: user_data_path("thaw"), description="Where everything is kept.")
    database_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL, such as postgresql+psycopg://user@host/thaw; empty: SQLite in the data folder.",
    )
    redis_url: SecretStr | None = Field(
        default=None, description="Redis or Valkey; empty: the embedded server's socket."
    )
    artifacts_url: str = Field(
        default="",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?)?$",
        description="Where artifacts are: s3://bucket/prefix; empty: a folder in the data folder.",
    )
    s3_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="An S3-compatible store, such as https://s3.example.com; empty: Amazon's.",
    )
    s3_region: str = Field(default="us-east-1", description="The bucket's region; many stores take any.")
    s3_access_key: SecretStr | None = Field(
        default=None, description="Id of the access key; empty: what AWS_… variables or the machine's role give."
    )
    s3_secret_key: SecretStr | None = Field(default=None, description="The secret that belongs to it.")
    host: str = Field(default="127.0.0.1", description="Address that the API listens on.")
    port: int = Field(default=8420, ge=0, le=65_535, description="Port that the API listens on; 0 picks a free one.")
    api_key: SecretStr | None = Field(
        default=None, description="The admin key; empty: one is made at the first start and written to a file."
    )

    metrics_public: bool = Field(default=False, description="Whether `/metrics` answers without an API key.")

    max_upload_bytes: int = Field(default=5 * GIB, gt=0, description="Largest file that may be uploaded.")
    max_part_bytes: int = Field(
        default=64 * 1024**2, gt=0, description="Largest part of an upload that arrives in parts."
    )
    upload_seconds: float = Field(
        default=86_400.0, gt=0, description="An upload in parts expires when nothing was added to it for so long."
    )
    max_body_bytes: int = Field(default=1024**2, gt=0, description="Largest JSON body.")
    max_model_parameters: int = Field(default=500_000_000, gt=0, description="Largest source that may be registered.")
    max_unpacked_bytes: int = Field(default=50 * GIB, gt=0, description="Largest dataset after unpacking.")
    min_free_disk_bytes: int = Field(
        default=256 * 1024**2,
        ge=0,
        description="With less room on a disk, uploads are refused there, `/readyz` answers 503, workers take no jobs, "
        "and jobs that were set aside wait.",
    )

    lease_seconds: float = Field(default=30.0, gt=0, description="How long an attempt is trusted without a heartbeat.")
    heartbeat_seconds: float = Field(default=5.0, gt=0, description="How often an attempt renews its lease.")
    fence_seconds: float = Field(
        default=20.0,
        gt=0,
        description="A supervisor that could not renew for so long ends its training process. Let it be shorter than "
        "the lease, so that it has ended before another one begins.",
    )
    sweep_seconds: float = Field(
        default=5.0, gt=0, description="How often expired leases and lost hints are looked for."
    )
    ring_again_seconds: float = Field(default=30.0, gt=0, description="A queued job's hint is sent again after this.")
    worker_slots: int = Field(default=0, ge=0, description="Jobs at once on this worker; 0: one per GPU, or one.")
    training_memory_bytes: int = Field(
        default=0, ge=0, description="A training process above this is ended with class capacity; 0: no limit of ours."
    )
    cache_bytes: int = Field(
        default=20 * GIB, ge=0, description="A worker keeps sources and datasets of past jobs up to this."
    )
    features_bytes: int = Field(
        default=20 * GIB, ge=0, description="A machine keeps cached features of frozen layers up to this."
    )
    gpu_start_method: Literal["spawn", "forkserver"] = Field(
        default="spawn", description="How training processes for GPUs start; on CPU they are always forked."
    )
    preparation_timeout_seconds: float = Field(
        default=1800.0, gt=0, description="Longest check of one model or dataset."
    )
    stall_seconds: float = Field(
        default=900.0, gt=0, description="A training process that does nothing for so long is ended, and tried again."
    )
    orphan_grace_seconds: float = Field(
        default=86_400.0, gt=0, description="Stored bytes that nothing refers to are deleted when they are this old."
    )
    keep_events_days: float = Field(
        default=90.0,
        ge=0,
        description="How long after its end a job keeps an event for each epoch; later its metrics alone have the "
        "figures. 0: for ever.",
    )
    storage_retry_seconds: float = Field(
        default=60.0,
        gt=0,
        description="How long a job that found no room on a disk waits before it is tried again; each time in a row "
        "twice as long, up to an hour.",
    )
    event_poll_seconds: float = Field(default=0.5, gt=0, description="How often an event stream looks for news.")

    @classmethod
    def read(cls, **given: Any) -> Self:  # noqa: ANN401 (any setting)
        """For programs: raises `MisconfiguredError`, which says what is wrong with which setting."""
        try:
            return cls(**given)
        except ValueError as error:  # pydantic's are, too
            message = f"A setting cannot be used: {error}"
            raise MisconfiguredError(message) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (the signature is pydantic's)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the `_FILE` variants."""
        return init_settings, env_settings, FileSecrets(settings_cls)

    @field_validator("data_dir")
    @classmethod
    def _at_home(cls, value: Path) -> Path:
        """`~`, which no shell has read in a file of variables, is the home folder."""
        try:
            return value.expanduser()
        except RuntimeError as error:
            message = f"THAW_DATA_DIR begins with ~ and the name of nobody who has a home here: {value}."
            raise ValueError(message) from error

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_database_url(value.get_secret_value()):
            message = (
                "THAW_DATABASE_URL must be postgresql+psycopg://user@host/database, or sqlite:////path/of/the/file.db, "
                f"its port a number{_ENCODED}."
            )
            raise ValueError(message)
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _has_readable_port(value.get_secret_value()):
            message = f"THAW_REDIS_URL must be redis://:password@host:port/0, its port a number{_ENCODED}."
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _check_times_of_a_lease(self) -> Self:
        if self.heartbeat_seconds >= min(self.fence_seconds, self.lease_seconds):
            message = (
                "THAW_HEARTBEAT_SECONDS must be shorter than THAW_FENCE_SECONDS and THAW_LEASE_SECONDS, or every "
                "attempt would be lost before its lease is renewed; they are "
                f"{self.heartbeat_seconds:g}, {self.fence_seconds:g} and {self.lease_seconds:g}."
            )
            raise ValueError(message)
        return self

    def resolved_database_url(self) -> str:
        """The database's URL; SQLite in the data folder if none is set."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.data_dir / 'thaw.db'}"

    def artifacts_dir(self) -> Path:
        """Where the local artifact store keeps its blobs."""
        return self.data_dir / "artifacts"

    def spool_dir(self) -> Path:
        """Where uploads are written before they go to a store on the network; safe to delete when nothing runs."""
        return self.data_dir / "spool"

    def work_dir(self) -> Path:
        """Where attempts work; safe to delete when nothing runs."""
        return self.data_dir / "work"

    def cache_dir(self) -> Path:
        """Canonical models and datasets that workers here have used; safe to delete when nothing runs."""
        return self.data_dir / "cache"

    def features_dir(self) -> Path:
        """Cached features of frozen layers, shared by the jobs of this machine; safe to delete when nothing runs."""
        return self.data_dir / "features"

    def selftest_dir(self) -> Path:
        """What workers here have found out about their versions and devices; safe to delete."""
        return self.data_dir / "selftest"

    def run_dir(self) -> Path:
        """Sockets, pid files and the note of what runs here (`service.json`)."""
        return self.data_dir / "run"

    def api_key_file(self) -> Path:
        """The admin key, readable by its owner only."""
        return self.data_dir / "api-key"


def _is_database_url(url: str) -> bool:
    if not _DATABASE_URL.match(url):
        return False
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        host = make_url(url).host
    except (ArgumentError, ValueError):
        return False
    # All from the first @ on counts as the host, and is shown.
    return "@" not in (host or "")


def _has_readable_port(url: str) -> bool:
    try:
        urlsplit(url).port  # noqa: B018 (it is read here)
    except ValueError:
        return False
    return True
