"""Exit codes: one meaning each, so that a script can act on the number alone.

0 done · 1 failed, and nothing was done · 2 what was typed cannot work · 3 no node reachable
4 the key has no value · 5 the ring is not healthy · 6 several concurrent values
7 outcome unknown: a write may have been applied · 8 refused by a safety check
9 a task was aborted or superseded · 130 interrupted
"""

from __future__ import annotations

from dynamo.client.errors import (
    BadContext,
    ConfigurationError,
    ConflictError,
    ConnectionFailed,
    DynamoError,
    KeyInvalid,
    KeyMissing,
    NotConverged,
    ValueTooLarge,
    WrongType,
)

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
ABSENT = 4
UNHEALTHY = 5
CONFLICT = 6
UNKNOWN = 7
REFUSED = 8
TASK_FAILED = 9
INTERRUPTED = 130


class Refused(DynamoError):
    """A safety check said no. The text says what would have gone wrong, and how to insist.

    `then`: the command that does what was probably meant, "" if there is none.
    """

    def __init__(self, message: str, *, then: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.then = then


class TaskEnded(DynamoError):
    """A task that was waited for has ended, and not by being done."""


class Unhealthy(DynamoError):
    """The ring is not in the state that was asked for."""


class Unfinished(DynamoError, TimeoutError):
    """Something was begun, and had not ended when the time was over."""

    timeout = True


# The first that fits decides, so subclasses stand before what they inherit from.
_KINDS: tuple[tuple[type[BaseException], int], ...] = (
    (KeyboardInterrupt, INTERRUPTED),
    (Refused, REFUSED),
    (TaskEnded, TASK_FAILED),
    (Unhealthy, UNHEALTHY),
    (NotConverged, UNHEALTHY),
    (ConnectionFailed, UNREACHABLE),
    (KeyMissing, ABSENT),
    (ConflictError, CONFLICT),
    (ConfigurationError, USAGE),
    (KeyInvalid, USAGE),
    (ValueTooLarge, USAGE),
    (WrongType, USAGE),
    (BadContext, USAGE),
    (TimeoutError, UNKNOWN),
)


def of_error(error: BaseException) -> int:
    """The exit code for an error that ends a command.

    A write that may have been applied is 7 whatever stopped it: that is what the caller must know.
    """
    if getattr(error, "maybe_applied", False):
        return UNKNOWN
    for kind, code in _KINDS:
        if isinstance(error, kind):
            return code
    # Imported here: a command that succeeds needs nothing of the server.
    from dynamo.server.config import ConfigError

    if isinstance(error, ConfigError):
        return USAGE
    code = getattr(error, "exit_code", FAILED)  # errors of click bring their own
    return code if isinstance(code, int) else FAILED
