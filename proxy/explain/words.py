"""Times as people say them. Pure."""


def lasting(seconds: float) -> str:
    """`3 minutes`, in the largest unit that fits."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{max(0, round(seconds))} s"


def ago(seconds: float) -> str:
    """`3 minutes ago`."""
    return f"{lasting(seconds)} ago"
