"""Against rot: hashes what is stored again, on demand and in the background, and fetches again what went bad."""

from proxy.verify.mend import Mend
from proxy.verify.report import Bad, Report
from proxy.verify.room import Verify
from proxy.verify.scrub import Pace, Scrub

__all__ = ["Bad", "Mend", "Pace", "Report", "Scrub", "Verify"]
