"""A PostgreSQL of the tests' own: a new cluster in a temporary directory, reached over a Unix socket, gone at the end.

`SEAWAY_TEST_POSTGRES_URL` names a server to use instead; tests make and drop databases of their own there.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest
from sqlalchemy import URL, make_url

from support.server import wait_until

MISSING = "The PostgreSQL server programs are missing; `apt-get install postgresql` brings them."
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
# Nothing here outlives the machine, so nothing is forced to its disk. What was acknowledged outlives a killed server.
_OPTIONS = ("fsync=off", "full_page_writes=off", "listen_addresses=", "max_connections=100")


def find_programs() -> Path | None:
    """The directory of `initdb` and `postgres`, the newest version first; Debian keeps them off the PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    found = installed[-1] if installed else shutil.which("postgres")
    return Path(found).parent if found and Path(found).with_name("initdb").exists() else None


class PostgresServer:
    """One cluster as a context manager. It can be stopped and started again on the same data."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._place = Path(tempfile.mkdtemp(prefix="seaway-pg-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._as: dict[str, Any] = _other_user(self._place)
            command = [str(self._programs / "initdb"), "--auth=trust", "--username=postgres", "--no-sync"]
            command += ["--encoding=UTF8", "--locale=C", "--pgdata", str(self._place / "data")]
            subprocess.run(command, check=True, cwd=self._place, stdout=subprocess.DEVNULL, **self._as)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._place, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self._place}"

    def start(self) -> None:
        """Returns when it answers."""
        command = [str(self._programs / "postgres"), "-D", str(self._place / "data"), "-k", str(self._place)]
        command += [part for option in _OPTIONS for part in ("-c", option)]
        if shutil.which("setpriv"):
            # A killed test run leaves no server behind.
            command = ["setpriv", "--pdeathsig", "INT", *command]
        with (self._place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._place, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as
            )
        wait_until(self._answers, _START_SECONDS, (self._place / "log").read_text)

    def stop(self) -> None:
        """As a crash: connections end at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_STOP_SECONDS)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._place / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(connection_string(self.url())):
            return True
        return False


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that the caller may stop. Skips where the programs are missing."""
    programs = find_programs()
    if programs is None:
        pytest.skip(MISSING)
    with PostgresServer(programs) as server:
        yield server


@contextlib.contextmanager
def shared_server_url() -> Iterator[str]:
    """The URL of a server for many tests: the one that SEAWAY_TEST_POSTGRES_URL names, or one of our own."""
    given = os.environ.get("SEAWAY_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with postgres_server() as server:
        yield server.url()


@contextlib.contextmanager
def new_database(server_url: str, template: str = "template0") -> Iterator[str]:
    """The URL of a new database, dropped at the end: empty, or a copy of `template`, which nobody may be using."""
    name = f"seaway_test_{secrets.token_hex(6)}"
    with psycopg.connect(connection_string(server_url), autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}")
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"drop database {name} with (force)")


def connection_string(url: str) -> str:
    """The SQLAlchemy URL as psycopg takes it."""
    plain: URL = make_url(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url))
    return plain.render_as_string(hide_password=False)


def _other_user(place: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: whose process it is to be, and `place` made theirs."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(place, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
