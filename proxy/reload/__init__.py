"""Another configuration for a running server: asked for by a signal or by a changed file, taken whole or not at all."""

from proxy.reload.files import Source
from proxy.reload.room import Reload

__all__ = ["Reload", "Source"]
