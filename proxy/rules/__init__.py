"""What a client asks for -> `Route` (rule, upstream, upstream repository); most specific wins. Pure."""

from proxy.rules.rules import Rules
from proxy.rules.words import Overlap, Place, Route, RuleView, Source

__all__ = ["Overlap", "Place", "Route", "RuleView", "Rules", "Source"]
