"""Structured log lines on standard error, bounded and cheap; secrets never.

One line per event: `event` and its fields. A field is cut at 512 characters, a trace at 8192; control characters are
escaped in both formats; every URL in a text loses its query and userinfo (`public_url`), since signed URLs carry
secrets there. What a client or an upstream sent never makes logging itself fail.
"""

import logging
import re
import sys
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger
from yarl import URL

FIELD_MAX = 512
TRACE_MAX = 8192
LINK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
Format = Literal["json", "human"]


def logger(room: str) -> Any:
    """The logger of one room; bound lazily, so that `configure` may come later."""
    return structlog.get_logger(room=room)


def public_url(url: URL | str) -> str:
    """A URL as it may be shown: no userinfo, query or fragment. What cannot be read as one is not shown at all."""
    try:
        parsed = URL(str(url), encoded=True)
        named = parsed.with_user(None) if parsed.absolute else parsed
        return str(named.with_query(None).with_fragment(None))
    except ValueError:
        return "(not a URL)"


def bounded(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every field a short, plain value: what a client sent decides neither a line's length nor its shape."""
    return {key: _plain(value, TRACE_MAX if key == "exception" else FIELD_MAX) for key, value in event.items()}


def _plain(value: Any, longest: int) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    text = hex(value) if isinstance(value, int) else str(value)  # an int of 5000 digits has no decimal text
    if "://" in text:
        text = LINK.sub(lambda link: public_url(link[0]), text)
    if len(text) > longest:
        # Of a trace the end is kept: that is where the error stands.
        text = text[:longest] + "…" if longest == FIELD_MAX else "…" + text[-longest:]
    if text.isprintable():
        return text
    # The JSON encoder escapes control characters of ASCII only, and takes no lone surrogate (a header's bad byte).
    return "".join(c if c < "\x7f" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escaped(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For human lines: no field may start a new line or move the cursor. A trace is a field like any other."""
    return {
        key.replace("exception", "trace"): value.encode("unicode_escape").decode()
        if isinstance(value, str) and not value.isprintable()
        else value
        for key, value in event.items()
    }


def configure(form: Format = "json", level: str = "info", stream: TextIO = sys.stderr) -> None:
    """Send log lines to `stream` (standard error) as `json` or `human` text, from `level` on."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        bounded,
    ]
    if form == "json":
        structlog.configure(
            processors=[*shared, structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.BytesLoggerFactory(file=stream.buffer),
            cache_logger_on_first_use=False,
        )
    else:
        structlog.configure(
            processors=[*shared, escaped, structlog.dev.ConsoleRenderer(colors=False)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.WriteLoggerFactory(file=stream),
            cache_logger_on_first_use=False,
        )
    # aiohttp and asyncio log each malformed request with a traceback at ERROR: one line at most, from warning on.
    logging.basicConfig(level=logging.CRITICAL, stream=stream, force=True)
