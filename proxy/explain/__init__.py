"""What a pull of a reference would do, and why. `Explain` is the room; the facts are what it tells."""

from proxy.explain.facts import Explanation, Verdict
from proxy.explain.room import ASK_WITHIN_S, Explain

__all__ = ["ASK_WITHIN_S", "Explain", "Explanation", "Verdict"]
