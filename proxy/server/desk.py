"""What the admin address tells and does, as JSON values; knows no HTTP. Everything here is asked of other rooms."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from proxy.current import Current
from proxy.errors import NameInvalid
from proxy.evict import Evict
from proxy.explain import Explain
from proxy.health import Health, LoopLag
from proxy.images import Images
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.oci import Digest
from proxy.reference import LATEST, parse
from proxy.rules import RuleView
from proxy.store.base import Index, Job
from proxy.tags import Tags
from proxy.verify import Scrub, Verify

JOBS_MAX: Final = 1000
STATES: Final = frozenset({"queued", "done", "failed"})


class Desk:
    """One method per question or deed."""

    def __init__(
        self,
        current: Current,
        health: Health,
        metrics: Metrics,
        lag: LoopLag,
        *,
        index: Index,
        tags: Tags,
        images: Images,
        evict: Evict,
        explain: Explain,
        verify: Verify,
        scrub: Scrub,
    ) -> None:
        self._current = current
        self.health = health
        self.metrics = metrics
        self.metrics_type = CONTENT_TYPE
        self._lag = lag
        self._index = index
        self._tags = tags
        self._images = images
        self._evict = evict
        self._explain = explain
        self._verify = verify
        self._scrub = scrub

    def report(self) -> dict[str, Any]:
        return {**self.health.report(), "loop_lag_seconds": round(self._lag.worst_s, 4)}

    async def rules(self, _query: Mapping[str, str]) -> dict[str, Any]:
        """Every rule in the order of matching."""
        states = self.health.rule_states()
        return {
            "rules": [{**rule_json(view), "status": states[view.name].value} for view in self._current.rules.listing()]
        }

    async def upstreams(self, _query: Mapping[str, str]) -> dict[str, Any]:
        """Every upstream: how it is configured, and how it is."""
        parts = self.health.report()["upstreams"]
        return {
            "upstreams": [
                {
                    "name": name,
                    "aliases": list(upstream.aliases),
                    "credentials": upstream.credentials,
                    "official_prefix": upstream.official_prefix,
                    **parts.get(name, {}),
                }
                for name, upstream in self._current.config.upstreams.items()
            ]
        }

    async def images(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Every image, or those that `reference` means."""
        return {"images": [view.as_json() for view in await self._images.listing(query.get("reference"))]}

    async def hydrations(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The queue and what ended lately, by when each is due; `state` is queued, done or failed."""
        state = query.get("state")
        if state is not None and state not in STATES:
            raise NameInvalid(f"state is one of {', '.join(sorted(STATES))}")
        return {"hydrations": [job_json(job) for job in await self._index.jobs(state, JOBS_MAX)]}

    async def usage(self, _query: Mapping[str, str]) -> dict[str, Any]:
        return (await self._images.usage()).as_json()

    async def explain(self, query: Mapping[str, str]) -> dict[str, Any]:
        """What a pull of `reference` would do."""
        if "reference" not in query:
            raise NameInvalid("the query must name a reference: ?reference=…")
        return (await self._explain.explain(query["reference"])).as_json()

    async def evict(self, reference: str) -> dict[str, Any]:
        report = await self._evict.named(reference)
        return {"reference": reference, **report.as_json()}

    async def verify(self, repair: bool) -> dict[str, Any]:
        """Hash everything stored, which takes as long as it takes; who asks meanwhile gets the same report."""
        return (await self._verify.all(repair=repair)).as_json()

    async def checks(self, _query: Mapping[str, str]) -> dict[str, Any]:
        """How the check that was asked for, and the one in the background, get on."""
        return {**self._verify.as_json(), "scrub": self._scrub.as_json()}

    async def refresh(self, reference: str) -> dict[str, Any]:
        """Check a tag upstream now. `moved`: to another digest than before; not told of a tag that was unknown."""
        named = parse(reference)
        if isinstance(named.target, Digest):
            raise NameInvalid("a digest never changes: name a tag")
        route = self._current.rules.route(named.name, namespace=named.namespace)
        found = await self._tags.refresh(route, named.target or LATEST)
        checked = found.outcome.checked_status
        return {
            "reference": str(named),
            "rule": route.rule,
            "digest": str(found.descriptor.digest),
            "media_type": found.descriptor.media_type,
            "size": found.descriptor.size,
        } | ({} if checked is None else {"moved": checked == 200})


def rule_json(view: RuleView) -> dict[str, Any]:
    """A rule as JSON values; an endless time is `forever`, as in the config."""
    told = asdict(view)
    told["tags"] = {key: _endless(value) for key, value in told["tags"].items()}
    return told


def _endless(value: Any) -> Any:
    return "forever" if isinstance(value, float) and math.isinf(value) else value


def job_json(job: Job) -> dict[str, Any]:
    return {
        "place": str(job.place),
        "rule": job.rule,
        "manifest": str(job.manifest),
        "state": job.state,
        "queued_at": job.queued_at,
        "due_at": job.due_at,
        "attempts": job.attempts,
        "error": job.error,
    }
