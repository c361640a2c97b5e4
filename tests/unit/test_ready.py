"""Answers that stand ready: their heads, and the lines of the moment."""

import pytest

from proxy.server.ready import date_line, head


def test_a_head_is_the_status_and_the_headers_in_order() -> None:
    """Lines end as HTTP has them, and the blank line is left to who sends."""
    assert head(200, {"A": "b", "Content-Length": "3"}) == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n"


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "\x00", "a\x7fb"])
def test_no_value_begins_a_line_of_its_own(value: str) -> None:
    """What an upstream called its media type splits no response."""
    with pytest.raises(ValueError, match="not a header"):
        head(200, {"Content-Type": value})


def test_the_date_follows_the_clock() -> None:
    """Whole seconds, GMT, whichever way the clock goes."""
    assert date_line(784111777.9) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert date_line(784111778.0) == b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
    assert date_line(784111777.0) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
