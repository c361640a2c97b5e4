"""Faults: pure functions from one `Answer` to another, composed left to right by `Registry.script`.

Each is named for what the server then does. Counts of bytes are of the answer's own body, not of the blob.
"""

import gzip
from dataclasses import replace

from multidict import CIMultiDict

from tests.support.wire import Answer, Fault, Gate, refusal, reply


def gate(stop: Gate, after_bytes: int = 0) -> Fault:
    """Stop the body after so many bytes; headers have gone."""
    return lambda answer: replace(answer, gates=tuple(sorted((*answer.gates, (after_bytes, stop)), key=lambda g: g[0])))


def gate_headers(stop: Gate) -> Fault:
    """Stop before the status line."""
    return lambda answer: replace(answer, header_gate=stop)


def cut(after_bytes: int, *, reset: bool = False) -> Fault:
    """Close after so many body bytes have arrived; with `reset`, by RST."""
    return lambda answer: replace(answer, cut_at=after_bytes, reset=reset)


def spoil(at: int = 0) -> Fault:
    """Flip one byte of the body: a wrong digest, of the right length. Negative counts from the end."""

    def spoilt(answer: Answer) -> Answer:
        body = bytearray(answer.body)
        if body:
            body[at] ^= 0xFF
        return replace(answer, body=bytes(body))

    return spoilt


def declare(length: int) -> Fault:
    """Name a Content-Length that is not the body's; the connection closes after the body."""
    return lambda answer: replace(answer, declared=length)


def become(other: Answer) -> Fault:
    """Answer something else altogether."""
    return lambda _: other


def html(status: int = 200) -> Fault:
    """A captive portal's page."""
    return become(reply(status, b"<html><body>Please log in</body></html>", "text/html; charset=utf-8"))


def throttle(retry_after: str | None = None) -> Fault:
    """429 toomanyrequests."""
    answer = refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
    return become(answer if retry_after is None else answer.with_header("Retry-After", retry_after))


def error(status: int, code: str = "UNKNOWN", **headers: str) -> Fault:
    """An error with the OCI body."""
    return become(refusal(status, code, **headers))


def redirect(location: str, status: int = 307) -> Fault:
    return become(reply(status, b"", "text/plain", Location=location))


def endless(answer: Answer) -> Answer:
    """A body without an end, chunked."""
    return replace(answer, endless=True, framing="chunked")


def compress(answer: Answer) -> Answer:
    """The body gzipped, and labelled so."""
    return replace(answer, body=gzip.compress(answer.body, mtime=0)).with_header("Content-Encoding", "gzip")


def chunked(answer: Answer) -> Answer:
    """No Content-Length: chunked."""
    return replace(answer, framing="chunked")


def close_delimited(answer: Answer) -> Answer:
    """No Content-Length: the body ends with the connection."""
    return replace(answer, framing="close")


def ignore_range(answer: Answer) -> Answer:
    """200 with everything, though a range was asked for."""
    headers = CIMultiDict((name, value) for name, value in answer.headers.items() if name != "Content-Range")
    return replace(answer, status=200, headers=headers, body=answer.whole)


def shift_range(by: int) -> Fault:
    """A 206 that starts `by` bytes elsewhere than asked, and says so; other answers stay."""

    def shifted(answer: Answer) -> Answer:
        if answer.status != 206:
            return answer
        start = max(0, len(answer.whole) - len(answer.body) + by)
        body = answer.whole[start:]
        value = f"bytes {start}-{start + len(body) - 1}/{len(answer.whole)}"
        return replace(answer, body=body).with_header("Content-Range", value)

    return shifted


def set_header(name: str, value: str) -> Fault:
    return lambda answer: answer.with_header(name, value)


def drop_header(name: str) -> Fault:
    def dropped(answer: Answer) -> Answer:
        headers = answer.headers.copy()
        headers.popall(name, None)
        return replace(answer, headers=headers)

    return dropped
