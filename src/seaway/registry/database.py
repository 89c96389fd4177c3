"""Connections and transactions, the same over SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from seaway.errors import ConfigurationError, Unavailable

log = structlog.get_logger()

_BUSY_MILLISECONDS = 10_000
_RETRIES = 8
_MIGRATION_LOCK, _WRITE_LOCK = 0x5EA3A7, 0x5EA3A8
# serialization failure, deadlock, unique violation: another writer was faster, and the second look sees its row
_TRY_AGAIN = {"40001", "40P01", "23505"}
T = TypeVar("T")


def now() -> datetime:
    """The time of day as rows keep it."""
    return datetime.now(UTC)


def aware(value: datetime) -> datetime:
    """SQLite forgets the zone; everything stored is UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """One registry's database. Used by several threads of control at once."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise ConfigurationError(
                "database_url is no database URL; an example: postgresql://user@host/name."
            ) from error
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.sqlite = parsed.get_backend_name() == "sqlite"
        # SQLite has one writer at a time; waiting here is fair, waiting in SQLite is a lottery of sleeps.
        self._writing = threading.Lock() if self.sqlite else contextlib.nullcontext()
        try:
            self.engine: Engine = create_engine(
                parsed,
                pool_pre_ping=not self.sqlite,
                connect_args={"timeout": 10} if self.sqlite else {"connect_timeout": 5},
            )
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigurationError(
                f"database_url needs a driver that is not installed ({error}); PostgreSQL comes with seaway[postgres]."
            ) from error
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for queries. Raises Unavailable when the database is."""
        with _translated(), self.engine.connect() as connection:
            yield connection

    def write(self, change: Callable[[Connection], T], *, before_commit: Callable[[], None] = lambda: None) -> T:
        """Run `change` in one transaction; from the beginning again when another writer was faster.

        Raises Unavailable when the database can't be reached or stays busy.
        """
        for attempt in range(_RETRIES):
            try:
                with _translated(), self._writing, self.engine.connect().execution_options(writes=True) as connection:
                    with connection.begin():
                        if not self.sqlite:
                            # Writes are rare and short; one at a time, counting versions is exact.
                            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _WRITE_LOCK})
                        result = change(connection)
                        before_commit()
                    return result
            except DBAPIError as error:
                if attempt == _RETRIES - 1 or getattr(error.orig, "sqlstate", None) not in _TRY_AGAIN:
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - spreads the competitors
        raise Unavailable("The registry is too busy; try again.")

    def migrate(self) -> None:
        """Bring the schema up to date. Of two at once, one waits for the other."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        opened = self.engine.connect().execution_options(writes=True)
        with _translated(), self._writing, opened as connection, connection.begin():
            if not self.sqlite:
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        self.engine.dispose()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) in _TRY_AGAIN:
            raise
        log.warning("registry.database_unreachable", reason=str(error.orig).split("\n")[0])
        raise Unavailable(
            "The registry's database can't be reached or is locked; predictions go on, try again."
        ) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Transactions begin where we say so, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    # FULL: an acknowledged deploy must outlive a power cut, which WAL with NORMAL doesn't promise.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MILLISECONDS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes the write lock at once: upgrading later would fail when another got it first.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
