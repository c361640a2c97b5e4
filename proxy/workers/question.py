"""A request of a client as the engine has it: what the registry's handler reads of one, and where its answer goes."""

from multidict import CIMultiDict
from yarl import URL

from proxy.workers.channel import Channel
from proxy.workers.words import Ask, Facts


class Question:
    """Stands where a handler expects aiohttp's request: it has the few fields that are read before an answer is sent.

    `changes` is the board's number when it came. `is_answered`: a blob went out of its own accord.
    """

    def __init__(self, ask: Ask, channel: Channel, changes: int) -> None:
        path, query, fragment = ask.url
        self.ask = ask
        self.channel = channel
        self.changes = changes
        self.method = ask.method
        self.raw_path = ask.target
        self.rel_url = URL.build(path=path, query_string=query, fragment=fragment, encoded=True)
        self.headers = CIMultiDict(ask.headers)
        self.version = ask.version
        self.remote = ask.client
        self.facts: Facts | None = None
        self.is_answered = False
