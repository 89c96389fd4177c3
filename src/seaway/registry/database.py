"""Connections and transactions, the same over SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from seaway.errors import ConfigurationError, Unavailable

log = structlog.get_logger()

_WAIT_SECONDS = 10
_RETRIES = 8
_WRITE_LOCK, _MIGRATION_LOCK = 0x5EA3A8, 0x5EA3A7
# serialization failure, deadlock, unique violation: another writer was faster, and the second look sees its row
_TRY_AGAIN = {"40001", "40P01", "23505"}
_READ_ONLY, _DISK_FULL = "25006", "53100"
# A peer that is gone without a word is noticed in seconds, not in the quarter of an hour that TCP takes.
_POSTGRES = {
    "connect_timeout": 5, "tcp_user_timeout": _WAIT_SECONDS * 1000,
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
}  # fmt: skip
T = TypeVar("T")


def now() -> datetime:
    """The time of day as rows keep it."""
    return datetime.now(UTC)


class Database:
    """One registry's database. Used by several threads of control at once."""

    def __init__(self, url: str) -> None:
        parsed = _checked_url(url)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        # SQLite has one writer at a time; waiting here is fair, waiting in SQLite is a lottery of sleeps.
        self._writer = threading.Lock()
        options: dict[str, Any] = (
            {"connect_args": {"timeout": _WAIT_SECONDS}}
            if self.sqlite
            # Said here, since a database may have another default: writers look after they got their lock.
            else {"connect_args": _POSTGRES, "pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        )
        try:
            self.engine: Engine = create_engine(parsed, pool_timeout=_WAIT_SECONDS, json_serializer=_json, **options)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigurationError(
                f"database_url needs a driver that is not installed ({error}); PostgreSQL comes with seaway[postgres]."
            ) from error
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose queries all see the same moment. Raises Unavailable when the database is."""
        with _translated(), self.engine.connect() as connection:
            if not self.sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    def write(self, change: Callable[[Connection], T], *, before_commit: Callable[[], None] = lambda: None) -> T:
        """Run `change` and `before_commit` in one transaction; both again when another writer was faster.

        No other writer of any process is between its first query and its commit meanwhile. Raises Unavailable when the
        database can't be reached, is full, or stays busy.
        """
        for attempt in range(_RETRIES):
            try:
                with self._writing(_WRITE_LOCK, _WAIT_SECONDS) as connection:
                    result = change(connection)
                    before_commit()
            except DBAPIError as error:
                if _sqlstate(error) not in _TRY_AGAIN:
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - spreads the competitors
            else:
                return result
        raise Unavailable("The registry is too busy; try again.")

    @contextlib.contextmanager
    def _writing(self, lock: int, wait_seconds: int) -> Iterator[Connection]:
        opened = self._translated_turn()
        with opened, self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            if not self.sqlite:
                # Writes are rare and short; one at a time, counting versions is exact.
                connection.execute(text(f"set local lock_timeout = '{wait_seconds}s'"))
                connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": lock})
            yield connection

    @contextlib.contextmanager
    def _translated_turn(self) -> Iterator[None]:
        if self.sqlite and not self._writer.acquire(timeout=_WAIT_SECONDS):
            raise Unavailable("The registry is too busy; try again.")
        try:
            with _translated():
                yield
        finally:
            if self.sqlite:
                self._writer.release()

    def migrate(self) -> None:
        """Bring the schema up to date. Of two at once, one waits. Raises ConfigurationError for a newer schema."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._writing(_MIGRATION_LOCK, 30 * _WAIT_SECONDS) as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise ConfigurationError(
                    f"The database was made by another version of Seaway, probably a newer one: {error}."
                ) from error

    def close(self) -> None:
        self.engine.dispose()


def _checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("database_url is no database URL; an example: postgresql://user@host/name.") from error
    backend = parsed.get_backend_name()
    if backend in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite" or parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError("database_url must be postgresql://user@host/name or sqlite:///path/to/file.")
    return parsed


def _json(value: object) -> str:
    """Exactly what was given: PostgreSQL keeps the text as SQLite does, so digests recompute on both."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _sqlstate(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What the database can't do now becomes Unavailable; what another try may mend stays as it is."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("The registry is too busy; try again.") from error
    except DBAPIError as error:
        state = _sqlstate(error)
        passing = isinstance(error, OperationalError) or error.connection_invalidated or state == _READ_ONLY
        if state in _TRY_AGAIN or not passing:
            raise
        log.warning("registry.database_unavailable", reason=str(error.orig).split("\n")[0])
        if state == _DISK_FULL or getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise Unavailable("The registry's disk is full; nothing was kept. Make room and try again.") from error
        raise Unavailable(
            "The registry's database can't be reached or is locked; predictions go on, try again."
        ) from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Transactions begin where we say so, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")
    _use_wal(cursor)
    pragmas = (
        # An acknowledged deploy must outlive a power cut, which WAL with NORMAL doesn't promise.
        "synchronous=FULL",
        "foreign_keys=ON",
        # Without it INSERT OR REPLACE deletes rows behind the back of the triggers that protect them.
        "recursive_triggers=ON",
    )
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Switch the file to WAL. Of several that open a new file at once, SQLite refuses all but one without waiting."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # The busy handler isn't asked where a shared lock would have to grow: both holders would wait for ever.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0, 0.01))  # noqa: S311 - spreads the competitors
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes the write lock at once: upgrading later would fail when another got it first.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
