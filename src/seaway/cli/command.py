"""What all commands that ask a server have in common: three options, and what becomes of errors."""

from __future__ import annotations

import functools
import getpass
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seaway import __version__
from seaway.cli import table
from seaway.errors import InvalidRequest, SeawayError, ServerNotReached, Unauthorized

if TYPE_CHECKING:
    from seaway.client import Client

FAILED, USAGE, NOT_REACHED, INTERRUPTED = 1, 2, 3, 130
"""Exit codes beside 0: refused or failed, wrong usage, no server reached, Ctrl-C."""

_KEY_MISSING = "This server asks for an API key; set SEAWAY_API_KEY, or give --api-key."
_KEY_REFUSED = "The API key was not accepted; check SEAWAY_API_KEY, or --api-key if it was given."

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, and nothing else.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The server; else SEAWAY_URL, else http://127.0.0.1:8080.")
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", metavar="KEY", help="Its API key; else SEAWAY_API_KEY, which other users can't see."),
]


@dataclass(frozen=True, slots=True)
class Common:
    """The common options, wherever on the command line they stood."""

    as_json: bool = False
    url: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command: the server it asks and the form of its output."""

    client: Client
    as_json: bool

    def show(self, answer: Any, render: Callable[[Any], None]) -> None:
        """Print `answer` as JSON, or let `render` print it for people."""
        if self.as_json:
            table.print_json(answer)
            return
        try:
            render(answer)
        except (KeyError, TypeError) as error:
            # The command line and the server may be of different versions.
            raise SeawayError(
                f"The server's answer is not as this version of Seaway ({__version__}) knows it: {error!r}. "
                "`seaway status --json` names the server's version; --json shows its answer as it is."
            ) from error


def asks_server(function: Callable[..., None]) -> Callable[..., None]:
    """A command from a function whose first parameter is the Call; adds --json, --url and --api-key.

    The common options may also stand before the command's name (`seaway --json status`).
    """
    signature = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def command(ctx: typer.Context, **arguments: Any) -> None:
        before = ctx.find_object(Common) or Common()
        common = Common(
            arguments.pop("as_json") or before.as_json,
            arguments.pop("url") or before.url,
            arguments.pop("api_key") or before.api_key,
        )
        with exit_codes(), _connect(common) as client:
            function(Call(client, common.as_json), **arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    common_options = [
        inspect.Parameter("as_json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("url", keyword, default=None, annotation=UrlOption),
        inspect.Parameter("api_key", keyword, default=None, annotation=KeyOption),
    ]
    own = [parameter.replace(kind=keyword) for parameter in list(signature.parameters.values())[1:]]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *own, *common_options])  # type: ignore[attr-defined]
    return command


@contextmanager
def _connect(common: Common) -> Iterator[Client]:
    # Settings and the HTTP library take longer to import than the rest of a command; --help does without them.
    from seaway.client import Client
    from seaway.config import client_address

    url, api_key = client_address()
    key = common.api_key or api_key
    try:
        opened = Client(common.url or url, key, actor=_user())
    except InvalidRequest as error:
        table.complain(str(error))
        raise typer.Exit(USAGE) from error
    with opened as client:
        try:
            yield client
        except Unauthorized as error:
            raise Unauthorized(_KEY_REFUSED if key else _KEY_MISSING) from error


def _user() -> str:
    """Who asks, for the server's audit log; a container may have no name for its user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors into a sentence and an exit code; an error nobody foresaw stays a traceback, for the bug report."""
    try:
        yield
    except ServerNotReached as error:
        table.complain(str(error))
        raise typer.Exit(NOT_REACHED) from error
    except SeawayError as error:
        table.complain(str(error))
        raise typer.Exit(FAILED) from error
    except BrokenPipeError:
        raise  # whoever read our output has seen enough; typer ends quietly
    except OSError as error:
        table.complain(f"{error.filename or 'A file'}: {error.strerror or error}.")
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
