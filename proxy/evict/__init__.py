"""Dropping images: the one a person names (`Evict`), or those that must make room (`MakeRoom`, by S3-FIFO)."""

from proxy.evict.make_room import MakeRoom
from proxy.evict.removal import EvictReport
from proxy.evict.room import Evict

__all__ = ["Evict", "EvictReport", "MakeRoom"]
