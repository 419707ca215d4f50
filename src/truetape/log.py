"""Log lines: for people on a terminal, JSON elsewhere; always on stderr. Never an amount or a secret.

structlog is imported with the first line that is written: that takes as long as the whole work of most
verbs, which have nothing to tell.
"""

import logging
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import structlog
    from stamina.instrumentation import RetryHook

_least: int | None = None
"""The least level that a process of ours writes; None where structlog is others' to set up."""


class Logger:
    """Tells what happened, by name, with values."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **values: Any) -> None:
        if _least is None or _least <= logging.INFO:
            self._writer().info(event, **values)

    def warning(self, event: str, **values: Any) -> None:
        self._writer().warning(event, **values)

    def error(self, event: str, **values: Any) -> None:
        self._writer().error(event, **values)

    def _writer(self) -> "structlog.stdlib.BoundLogger":
        import structlog

        _set_up()
        return cast("structlog.stdlib.BoundLogger", structlog.get_logger(self._name))


def get(name: str) -> Logger:
    return Logger(name)


def configure(*, warnings_only: bool = False) -> None:
    """Sets logging up for a process of ours."""
    from stamina.instrumentation import RetryHookFactory, set_on_retry_hooks

    global _least
    _least = logging.WARNING if warnings_only else logging.INFO
    _set_up.cache_clear()
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # stamina's line about a retry may be the first of all.
    set_on_retry_hooks([RetryHookFactory(_retry_hook)])


def _retry_hook() -> "RetryHook":
    from stamina.instrumentation import StructlogOnRetryHook

    _set_up()
    return StructlogOnRetryHook.hook_factory()


@cache
def _set_up() -> None:
    """Sets structlog up as ``configure`` said, if it did."""
    if _least is None:
        return
    import structlog

    human = sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_least),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
