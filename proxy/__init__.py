"""Cistern: a pull-through caching proxy for container registries. Serve now, hydrate for later."""

__version__ = "0.1.0"
