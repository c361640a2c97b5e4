"""An upstream that says one thing to everything."""

from collections.abc import Callable

from tests.support.wire import Answer, Recorded, reply


def always(status: int) -> Callable[[Recorded, Answer], Answer]:
    """A registry that answers everything with one status."""
    return lambda _request, _answer: reply(status, b"", "text/plain")
