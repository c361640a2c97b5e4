"""The keys that a running server cannot change: sockets are bound, and the directory is locked.

Pure. A reload takes everything else over and names these, so that one changed port does not hold back a deny rule.
"""

from typing import Any, Final

from proxy.config.models import Config

FIXED: Final = (
    "registry.listen",
    "registry.name",
    "registry.workers",
    "registry.tls",
    "admin.listen",
    "blobs.listen",
    "cache.directory",
)


def fixed(running: Config, found: Config) -> tuple[Config, tuple[str, ...]]:
    """`found` with the values of `running` for every key that needs a restart, and the keys that differ.

    Of `registry.tls` only its being there is fixed: other files, and other content of them, can be taken at any time.
    """
    sections: dict[str, dict[str, Any]] = {}
    changed: list[str] = []
    for key in FIXED:
        section, _, name = key.partition(".")
        before, after = getattr(getattr(running, section), name), getattr(getattr(found, section), name)
        if before != after and (key != "registry.tls" or before is None or after is None):
            changed.append(key)
            sections.setdefault(section, {})[name] = before
    update = {section: getattr(found, section).replaced(**values) for section, values in sections.items()}
    return found.replaced(**update), tuple(changed)
