"""Whether this member serves, and what is wrong where: for probes, reports and metrics."""

from proxy.health.hearing import Hearing
from proxy.health.judge import State
from proxy.health.lag import LoopLag
from proxy.health.look import Look, oldest_s
from proxy.health.room import Health, Phase

__all__ = ["Health", "Hearing", "Look", "LoopLag", "Phase", "State", "oldest_s"]
