"""Every exception Seaway raises on purpose, as one tree.

    SeawayError
    ├─ InvalidRequest            what the caller sent is wrong
    │  ├─ InvalidPackage         the model package (or dataset) can't be accepted
    │  ├─ PayloadTooLarge        a body, or what it unpacks to, is over a limit
    │  ├─ UnsupportedEncoding    a content encoding or type nobody here reads
    │  ├─ MethodNotAllowed       the path exists, the method doesn't
    │  └─ HeadersTooLarge        request line or headers over a limit
    ├─ Unauthorized              no API key, or a wrong one
    ├─ NotFound                  no such model, version, dataset, route ...
    ├─ Conflict                  the change contradicts what is stored
    ├─ Overloaded                too much waits already; come back later
    ├─ DeadlineExceeded          the caller's time is over
    ├─ Cancelled                 the caller left
    ├─ Unavailable               known, but can't answer now
    │  ├─ WorkerLost             the process that ran the request died
    │  └─ ServerNotReached       the client found no server at its address
    ├─ NotSupported              part of a protocol that is not offered
    ├─ ArtifactCorrupt           bytes on disk are not the bytes registered
    ├─ InferenceFailed           the model itself failed on an acceptable input
    │  ├─ OutOfMemory            it asked for more memory than the device has left
    │  └─ DeviceLost             the device failed, and answers nothing more in this process
    ├─ WarmUpFailed              a version didn't give its known answers, or failed on its first input
    └─ ConfigurationError        a setting is wrong

No HTTP here: ``seaway.api.errors`` maps the tree to statuses. A message says what is wrong and what to do.
Errors cross processes as ``(code, message)``; the code is the name of the class.
"""

from __future__ import annotations


class SeawayError(Exception):
    """Something Seaway refuses or could not do; the message is for the caller."""

    @property
    def code(self) -> str:
        """The name under which this error crosses processes."""
        return type(self).__name__


class InvalidRequest(SeawayError):
    """What the caller sent is wrong; the message names the field and what was expected."""


class InvalidPackage(InvalidRequest):
    """A model package or dataset can't be accepted; nothing of it was kept."""


class PayloadTooLarge(InvalidRequest):
    """A body, or what it unpacks to, is larger than the limit that the message names."""


class UnsupportedEncoding(InvalidRequest):
    """A content encoding or content type that is not read here."""


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this method."""


class HeadersTooLarge(InvalidRequest):
    """The request line or the headers are over the limit."""


class Unauthorized(SeawayError):
    """No API key was given, or a wrong one."""


class NotFound(SeawayError):
    """There is no such thing under this name."""


class Conflict(SeawayError):
    """The change contradicts what is stored."""


class Overloaded(SeawayError):
    """Too much waits already. ``retry_after_seconds`` estimates when there is room again."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(SeawayError):
    """The request's time was over before there was an answer."""


MORE_TIME = "More is given by a longer X-Request-Timeout-Seconds header, or the deployment's timeout_seconds."
"""What to do about it, at the end of a message."""


class Cancelled(SeawayError):
    """The caller left before there was an answer."""


class Unavailable(SeawayError):
    """The thing is known but can't answer now; the message says why."""


class WorkerLost(Unavailable):
    """The worker process died while it ran this request; it is not tried again, since it may be the cause."""


class ServerNotReached(Unavailable):
    """Raised by the client: no Seaway server answers at its address."""


class NotSupported(SeawayError):
    """A part of a protocol that Seaway does not offer."""


class ArtifactCorrupt(SeawayError):
    """The bytes on disk are not the bytes that were registered; they are not loaded."""


class InferenceFailed(SeawayError):
    """The model failed on an input that its signature allows."""


class OutOfMemory(InferenceFailed):
    """The run needed more memory than the device has left; a smaller batch may fit."""


class DeviceLost(InferenceFailed):
    """The device failed in a way that only a new process gets over; nothing is known about the input's part in it."""


class WarmUpFailed(SeawayError):
    """A version failed on its first inputs or missed its known answers; it will not serve."""


class ConfigurationError(SeawayError):
    """A setting is wrong; the message names it."""


def _tree(root: type[SeawayError]) -> dict[str, type[SeawayError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_code(code: str, message: str) -> SeawayError:
    """The error that another process sent as its code and message; an unknown code gives a plain SeawayError."""
    return _tree(SeawayError).get(code, SeawayError)(message)
