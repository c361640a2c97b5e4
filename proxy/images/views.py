"""What is told of images and of usage, and how it is worked out from one look at what is here. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from proxy.contents import Contents, Part
from proxy.holdings import HeldImage, upstream_of
from proxy.oci import Digest
from proxy.places import named
from proxy.rules import Place, Rules

MISSING_MAX: Final = 20  # missing digests named per image


@dataclass(frozen=True, slots=True)
class PlatformView:
    """One manifest of an index: whether it is here, and how many of its blobs are."""

    platform: str | None
    digest: str
    here: bool
    blobs_present: int
    blobs_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageView:
    """One image of one place. Times are Unix seconds, sizes bytes; `rule` leads there now, None if none does.

    `complete`: its manifest is here and all blobs are; of an index, those of every platform whose manifest is here,
    and at least one. `own_bytes` would be freed by evicting it, `shared_bytes` other images use as well.
    """

    reference: str
    repository: str
    tags: tuple[str, ...]
    digest: str
    media_type: str
    rule: str | None
    upstream: str
    complete: bool
    manifest_here: bool
    blobs_present: int
    blobs_total: int
    missing: tuple[str, ...]
    platforms: tuple[PlatformView, ...]
    own_bytes: int
    shared_bytes: int
    first_seen: float | None
    last_checked: float | None
    last_used: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ShareView:
    """What one upstream or rule holds: each blob once, also if others hold it too."""

    name: str
    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RuleShareView:
    """What one rule holds, and its soft limit in bytes, None without one."""

    name: str
    blobs: int
    bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, slots=True)
class DiskView:
    """The disk side of usage, in bytes of disk. `used_bytes` is None until the cache has been counted.

    `reserved_bytes` are promised to running transfers; `parts_bytes` were left behind by transfers that broke off.
    """

    used_bytes: int | None
    reserved_bytes: int
    parts_bytes: int
    limit_bytes: int
    free_bytes: int
    keep_free_bytes: int
    growth_per_day_bytes: float | None
    days_to_full: float | None


@dataclass(frozen=True, slots=True)
class ImageShare:
    """What one image holds, in bytes."""

    reference: str
    own_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageView:
    """What is kept, in bytes of content; `unused_*` no image reaches. What it takes of the disk is in `disk`."""

    bytes: int
    blobs: int
    unused_bytes: int
    unused_blobs: int
    disk: DiskView
    upstreams: tuple[ShareView, ...]
    rules: tuple[RuleShareView, ...]
    images: tuple[ImageShare, ...]

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        disk: dict[str, Any] = told.pop("disk")
        return told | disk


@dataclass(frozen=True, slots=True)
class Survey:
    """One look: every image, what is stored, how many images reach each digest, and how each place is called."""

    images: Sequence[HeldImage]
    stored: Mapping[Digest, int]
    users: Mapping[Digest, int]
    names: Mapping[Place, tuple[str, str | None]]
    linked: Mapping[Place, frozenset[Digest]]


def survey_of(
    images: Sequence[HeldImage],
    stored: Mapping[Digest, int],
    linked: Mapping[Place, frozenset[Digest]],
    rules: Rules,
) -> Survey:
    """Add up one look. Takes a while for many images: not for the event loop."""
    users = Counter(digest for image in images for digest in image.reach())
    return Survey(images, stored, users, {place: named(rules, place) for place in linked}, linked)


def usage_of(survey: Survey, disk: DiskView, limits: Mapping[str, int]) -> UsageView:
    """What is kept, by upstream, rule and image; `limits` are the rules' soft ones."""
    by_upstream: dict[str, set[Digest]] = {}
    by_rule: dict[str, set[Digest]] = {}
    for place, digests in survey.linked.items():
        by_upstream.setdefault(upstream_of(place), set()).update(digests)
        rule = survey.names[place][1]
        if rule is not None:
            by_rule.setdefault(rule, set()).update(digests)
    unused = [size for digest, size in survey.stored.items() if digest not in survey.users]
    views = [view_of(image, survey, None) for image in survey.images]
    views.sort(key=lambda view: (-view.own_bytes, -view.shared_bytes, view.reference))
    return UsageView(
        bytes=sum(survey.stored.values()),
        blobs=len(survey.stored),
        unused_bytes=sum(unused),
        unused_blobs=len(unused),
        disk=disk,
        upstreams=_shares(by_upstream, survey.stored),
        rules=tuple(
            RuleShareView(share.name, share.blobs, share.bytes, limits.get(share.name))
            for share in _shares(by_rule, survey.stored)
        ),
        images=tuple(ImageShare(view.reference, view.own_bytes, view.shared_bytes) for view in views),
    )


def view_of(image: HeldImage, survey: Survey, last_used: float | None) -> ImageView:
    repository, rule = survey.names[image.place]
    tags = tuple(image.tags)
    reach = image.reach()
    here = {digest: survey.stored[digest] for digest in reach if digest in survey.stored}
    own = sum(size for digest, size in here.items() if survey.users[digest] == 1)
    blobs = {part.digest for held in image.manifests.values() for part in held.parts if not part.is_manifest}
    missing = sorted(str(digest) for digest in blobs if digest not in here)
    manifest_here = image.digest in image.manifests
    platforms = tuple(_platform(part, image.manifests, here) for part in image.parts if part.is_manifest)
    has_image = any(platform.here for platform in platforms) or not platforms
    return ImageView(
        reference=f"{repository}:{tags[0]}" if tags else f"{repository}@{image.digest}",
        repository=repository,
        tags=tags,
        digest=str(image.digest),
        media_type=image.media_type,
        rule=rule,
        upstream=upstream_of(image.place),
        complete=manifest_here and has_image and not missing,
        manifest_here=manifest_here,
        blobs_present=len(blobs) - len(missing),
        blobs_total=len(blobs),
        missing=tuple(missing[:MISSING_MAX]),
        platforms=platforms,
        own_bytes=own,
        shared_bytes=sum(here.values()) - own,
        first_seen=min((record.first_seen for record in image.tags.values()), default=None),
        last_checked=max((record.last_checked for record in image.tags.values()), default=None),
        last_used=last_used,
    )


def _platform(part: Part, manifests: Mapping[Digest, Contents], here: Mapping[Digest, int]) -> PlatformView:
    held = manifests.get(part.digest)
    blobs = {child.digest for child in held.parts if not child.is_manifest} if held is not None else set()
    present = sum(digest in here for digest in blobs)
    return PlatformView(part.platform, str(part.digest), held is not None, present, len(blobs))


def _shares(held: Mapping[str, set[Digest]], stored: Mapping[Digest, int]) -> tuple[ShareView, ...]:
    """Largest first."""
    found = []
    for name, digests in held.items():
        sizes = [stored[digest] for digest in digests if digest in stored]
        found.append(ShareView(name, len(sizes), sum(sizes)))
    return tuple(sorted(found, key=lambda share: (-share.bytes, share.name)))
