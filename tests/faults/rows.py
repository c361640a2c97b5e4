"""The fault rows of an upstream's trouble as data: what goes wrong, and what client, upstream and cache show then.

Ids are those of reliability.md section 5. A row says what each of a crowd may end with, how often the upstream may be
asked and how many copies may leave it, what is committed at the end, and which metric tells of it. After every row the
upstream heals, and one more client must get everything: `play` in `playing`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.faults import stage as parts
from tests.faults.spoils import (
    all_answers,
    always,
    cut_road,
    cut_then,
    expired_at_once,
    expired_in_mid_body,
    expired_token,
    once,
    past_iat,
    realm_answers,
    realm_shape,
    realm_silent,
    refuse,
    silent,
    tag_answers,
    token_expired_in_mid_body,
    total,
    void,
)
from tests.faults.stage import MIB, TAG, Play, Stage
from tests.support import script
from tests.support.faults import End
from tests.support.wire import reply

# Bodies that are exact and complete; or broken off, so that the client knows; or refused by a status.
EXACT: Final = frozenset({"exact"})
BROKEN: Final = frozenset({"broken"})
STALE: Final = frozenset({"stale"})
AWAY: Final = frozenset({"502", "503+", "504", "503", "504+", "502+"})
THROTTLED: Final = frozenset({"503+"})  # as a mirror; a rule's own path would be told 429
DENIED: Final = frozenset({"403", "404"})
PAST: Final = "Mon, 01 Jan 2001 00:00:00 GMT"
RESUMED: Final = "cistern_downloads_resumed_total"
WRONG: Final = "cistern_integrity_failures_total"
UNKEPT: Final = "cistern_not_stored_total"
STALE_TOLD: Final = "cistern_stale_oldest_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault. `prepare` sets the upstream up, `held` pulls through it while it is well, `spoil` breaks it.

    `asked` bounds the requests for `target` (by default the layer), with `each` more per client; `copies` the bytes
    that leave for the layer. `kept`: whether the layer is committed afterwards. `keys` are Cistern's tag keys for it.
    """

    id: str
    fault: str
    play: Play
    spoil: Callable[[Stage], None]
    client: frozenset[str]
    asked: int
    each: int = 0
    target: str | None = None
    copies: float = 1.001
    kept: bool | None = None
    signal: str | None = None
    held: bool = False
    prepare: Callable[[Stage], None] = lambda _stage: None
    keys: str = ""
    waves: int = 1  # crowds, one after the other
    is_slow: bool = False  # ends only when somebody's patience does
    is_long: bool = False  # what is remembered of it outlasts any patience: only for a clock that is turned by hand

    @property
    def name(self) -> str:
        return f"{self.id} {self.fault}"


BODY_ROWS: Final = (
    Row(id="F08", fault="cut in mid-body, with a length", play=parts.layer, spoil=once(script.cut(MIB)),
        client=EXACT, asked=2, kept=True, signal=RESUMED),
    Row(id="F08", fault="cut in mid-body, chunked", play=parts.layer, spoil=once(script.cut(MIB), script.chunked),
        client=EXACT, asked=2, kept=True, signal=RESUMED),
    Row(id="F08", fault="cut in mid-body, close-delimited", play=parts.layer,
        spoil=once(script.cut(MIB), script.close_delimited), client=EXACT, asked=2, kept=True, signal=RESUMED),
    Row(id="F08", fault="every answer cut after 300 kB", play=parts.layer, spoil=always(script.cut(300_000)),
        client=EXACT, asked=8, kept=True, signal=RESUMED),
    Row(id="F08", fault="cut, and then no byte more", play=parts.layer, client=BROKEN,
        spoil=lambda stage: (always(script.cut(0))(stage), once(script.cut(MIB))(stage))[0],
        asked=4, kept=False, signal=UNKEPT),
    Row(id="F09", fault="resume answered 200", play=parts.layer, spoil=cut_then(script.ignore_range),
        client=EXACT, asked=2, copies=1.6, kept=True, signal=RESUMED),
    Row(id="F10", fault="resume answered from further back", play=parts.layer,
        spoil=cut_then(script.shift_range(-5000)), client=EXACT, asked=3, copies=2.1, kept=True, signal=RESUMED),
    Row(id="F10", fault="resume answered from further on", play=parts.layer, spoil=cut_then(script.shift_range(5000)),
        client=EXACT, asked=3, copies=2.1, kept=True, signal=RESUMED),
    Row(id="F10", fault="resume answered 416", play=parts.layer, spoil=cut_then(script.error(416)),
        client=EXACT, asked=3, copies=1.6, kept=True, signal=RESUMED),
    Row(id="F10", fault="resume with another ETag", play=parts.layer,
        spoil=cut_then(script.set_header("Etag", '"another"')), client=EXACT, asked=3, copies=1.6, kept=True,
        signal=RESUMED),
    Row(id="F10", fault="resume with another total", play=parts.layer, spoil=cut_then(total(99)),
        client=EXACT | BROKEN, asked=3, copies=2.1, signal=RESUMED),
    Row(id="F11", fault="wrong first byte", play=parts.layer, spoil=once(script.spoil(0)),
        client=BROKEN | EXACT, asked=1, each=1, copies=8.1, signal=WRONG),
    Row(id="F11", fault="wrong last byte", play=parts.layer, spoil=once(script.spoil(-1)),
        client=BROKEN | EXACT, asked=1, each=1, copies=8.1, signal=WRONG),
    Row(id="F11", fault="always wrong", play=parts.layer, spoil=always(script.spoil(7)),
        client=BROKEN, asked=0, each=1, copies=8.1, kept=False, signal=WRONG),
    Row(id="F11", fault="wrong byte in a small blob", play=parts.config, client=frozenset({"502"}),
        spoil=lambda stage: void(stage.registry.script(stage.image.blobs[0].digest, script.spoil(3))),
        asked=0, each=1, target="config", signal=WRONG),
    Row(id="F12", fault="stall in mid-body", play=parts.layer, client=EXACT, asked=2, kept=True, signal=RESUMED,
        spoil=lambda stage: void(stage.registry.hold(stage.layer.digest, MIB, times=1)), is_slow=True),
    Row(id="F13", fault="reset in mid-body", play=parts.layer, spoil=once(script.cut(MIB, reset=True)),
        client=EXACT, asked=2, kept=True, signal=RESUMED, copies=1.6),
    Row(id="F13", fault="reset in mid-header", play=parts.layer, spoil=cut_road(40, End.RESET),
        client=EXACT | AWAY, asked=2, copies=2.1),
    Row(id="F13", fault="reset on connect, once", play=parts.layer, spoil=refuse(1), client=EXACT | AWAY, asked=1),
    Row(id="F13", fault="reset on connect, always", play=parts.layer, spoil=refuse(None), client=AWAY, asked=0,
        kept=False, signal="cistern_upstream_requests_total"),
)  # fmt: skip


AWAY_ROWS: Final = (
    *(Row(id="F14", fault=f"429 {word}, cold blob", play=parts.layer, spoil=all_answers(script.throttle(after)),
          client=THROTTLED, asked=1, waves=3, copies=0.0, kept=False, signal="cistern_upstream_requests_total")
      for word, after in (("with Retry-After", "30"), ("without Retry-After", None))),
    *(Row(id="F14", fault=f"429, Retry-After {word}", play=parts.layer, spoil=all_answers(script.throttle(after)),
          client=THROTTLED, asked=1, waves=3, copies=0.0, kept=False, is_long=True)
      for word, after in (
        ("in ten years", "315360000"), ("as text", "soon"), ("negative", "-5"), ("of a past date", PAST),
        ("of a far date", "Fri, 31 Dec 2100 23:59:59 GMT"), ("twice", "3, 9"))),
    *(Row(id="F14", fault=f"ratelimit-remaining {word}", play=parts.tag, client=EXACT, asked=1, target=TAG,
          spoil=all_answers(script.set_header("RateLimit-Remaining", value)))
      for word, value in (
        ("0", "0;w=21600"), ("below 0", "-7;w=1"), ("of 40 digits", "9" * 40), ("as text", "plenty"))),
    Row(id="F14", fault="429, held tag", play=parts.tag, spoil=all_answers(script.throttle("30")), held=True,
        client=STALE, asked=1, target=TAG, signal=STALE_TOLD),
    Row(id="F14", fault="429, held blob", play=parts.layer, spoil=all_answers(script.throttle("30")), held=True,
        client=EXACT, asked=0, kept=True),
    *(Row(id="F15", fault=f"{status}, cold blob", play=parts.layer, spoil=all_answers(script.error(status)),
          client=AWAY, asked=5, copies=0.0, kept=False, signal=UNKEPT) for status in (500, 502, 503, 504)),
    Row(id="F15", fault="503, cold tag", play=parts.tag, spoil=all_answers(script.error(503)), client=AWAY, asked=5,
        target=TAG),
    *(Row(id="F15", fault=f"{status}, held tag", play=parts.tag, spoil=all_answers(script.error(status)), held=True,
          client=STALE, asked=2, target=TAG, signal=STALE_TOLD) for status in (500, 502, 503, 504)),
    Row(id="F15", fault="503, held blob", play=parts.layer, spoil=all_answers(script.error(503)), held=True,
        client=EXACT, asked=0, kept=True),
    Row(id="F15", fault="no connection, held tag", play=parts.tag, spoil=refuse(None), held=True, client=STALE, asked=0,
        target=TAG, signal=STALE_TOLD),
    Row(id="F15", fault="no answer, held tag", play=parts.tag, spoil=silent, held=True, client=STALE, asked=1,
        target=TAG, signal=STALE_TOLD, is_slow=True),
    Row(id="F16", fault="no first byte for 60 s, cold blob", play=parts.layer, spoil=silent, client=AWAY, asked=1,
        copies=0.0, kept=False, is_slow=True),
    Row(id="F16", fault="no first byte for 60 s, cold tag", play=parts.tag, spoil=silent, client=AWAY, asked=1,
        target=TAG, is_slow=True),
)  # fmt: skip


ACCESS_ROWS: Final = (
    Row(id="F17", fault="signed URL expired between redirect and GET", play=parts.layer, prepare=Stage.redirects,
        spoil=expired_at_once, client=EXACT, asked=2, kept=True),
    Row(id="F17", fault="signed URL expired in mid-body", play=parts.layer, prepare=Stage.redirects,
        spoil=expired_in_mid_body, client=EXACT, asked=3, kept=True, signal=RESUMED),
    Row(id="F18", fault="token expired in mid-body", play=parts.layer, prepare=Stage.wants_tokens,
        spoil=token_expired_in_mid_body, client=EXACT, asked=2, kept=True, signal=RESUMED),
    Row(id="F18", fault="every client needs a token", play=parts.layer, prepare=Stage.wants_tokens,
        spoil=lambda _stage: None, client=EXACT, asked=1, target="token", kept=True),
    *(Row(id="F19", fault=f"token realm {word}, cold blob", play=parts.layer, prepare=Stage.wants_tokens, spoil=spoil,
          client=AWAY, asked=0, copies=0.0, kept=False, is_slow=word == "silent") for word, spoil in (
        ("answers 503", realm_answers(script.error(503))),
        ("answers HTML", realm_answers(script.html())),
        ("answers 10 MiB", realm_answers(script.become(reply(200, b'{"token": "' + b"x" * 10 * MIB + b'"}')))),
        ("redirects", realm_answers(script.redirect("/elsewhere"))),
        ("silent", realm_silent))),
    Row(id="F19", fault="token realm answers 401 to anybody, cold blob", play=parts.layer, asked=0, copies=0.0,
        prepare=Stage.wants_tokens, spoil=realm_answers(script.error(401, "UNAUTHORIZED")), client=DENIED, kept=False),
    *(Row(id="F19", fault=f"token realm {word}, held tag", play=parts.tag, prepare=Stage.wants_tokens, spoil=spoil,
          held=True, client=STALE, asked=1, target=TAG, signal=STALE_TOLD) for word, spoil in (
        ("answers 503", realm_answers(script.error(503))),
        ("answers HTML", realm_answers(script.html())))),
    Row(id="F19", fault="token without expires_in", play=parts.layer, prepare=realm_shape(expires_in=None),
        spoil=lambda _stage: None, client=EXACT, asked=1, kept=True),
    Row(id="F19", fault="token that has expired already", play=parts.layer, prepare=Stage.wants_tokens,
        spoil=realm_answers(expired_token), client=EXACT, asked=1, kept=True),
    Row(id="F19", fault="token issued in 2001", play=parts.layer, prepare=Stage.wants_tokens,
        spoil=realm_answers(past_iat), client=EXACT, asked=1, kept=True),
    Row(id="F20", fault="403 for a held tag", play=parts.tag, spoil=tag_answers(script.error(403, "DENIED")), held=True,
        client=DENIED, asked=2, target=TAG),
    Row(id="F20", fault="401 for a held tag", play=parts.tag, spoil=tag_answers(script.error(401, "UNAUTHORIZED")),
        held=True, client=DENIED, asked=2, target=TAG),
    Row(id="F20", fault="403 for a held tag, on_denied: serve_stale", play=parts.tag, held=True,
        spoil=tag_answers(script.error(403, "DENIED")), client=STALE, asked=2, target=TAG, signal=STALE_TOLD,
        keys="tags: {on_denied: serve_stale}"),
    Row(id="F20", fault="403 for a held tag, by digest", play=parts.digest, held=True,
        spoil=tag_answers(script.error(403, "DENIED")), client=EXACT, asked=0),
    Row(id="F21", fault="404 for a held tag", play=parts.tag, held=True, client=STALE, asked=2, target=TAG,
        spoil=tag_answers(script.error(404, "MANIFEST_UNKNOWN")), signal=STALE_TOLD),
    Row(id="F21", fault="404 for a held tag, on_not_found: deny", play=parts.tag, held=True, asked=2, target=TAG,
        spoil=tag_answers(script.error(404, "MANIFEST_UNKNOWN")), client=frozenset({"404"}),
        keys="tags: {on_not_found: deny}"),
    Row(id="F21", fault="404 for a held tag, by digest", play=parts.digest, held=True, client=EXACT, asked=0,
        spoil=tag_answers(script.error(404, "MANIFEST_UNKNOWN"))),
    Row(id="F22", fault="tag moved", play=parts.tag, held=True, spoil=Stage.move, client=EXACT, asked=2, target=TAG),
    Row(id="F22", fault="tag moves between HEAD and GET", play=parts.head_then_moved, spoil=lambda _stage: None,
        client=EXACT, asked=1, target=TAG),
    Row(id="F22", fault="tag moves between manifest and layer", play=parts.manifest_then_moved,
        spoil=lambda _stage: None, client=EXACT, asked=1, kept=True),
    Row(id="F37", fault="a held tag's time is over", play=parts.tag, held=True, spoil=lambda _stage: None,
        client=EXACT, asked=1, target=TAG),
)  # fmt: skip


ROWS: Final = (*BODY_ROWS, *AWAY_ROWS, *ACCESS_ROWS)
