"""How much may stand on the disk, and whether the disk takes it. `Capacity` is the room; `Admission` its port."""

from proxy.capacity.base import Admission, Unbounded
from proxy.capacity.growth import days_to_full, growth_per_day
from proxy.capacity.limits import Limits
from proxy.capacity.room import Capacity

__all__ = ["Admission", "Capacity", "Limits", "Unbounded", "days_to_full", "growth_per_day"]
