"""Which images are here, and what they take. `Images` is the room; the views are what it tells."""

from proxy.images.room import Images
from proxy.images.views import DiskView, ImageShare, ImageView, PlatformView, RuleShareView, ShareView, UsageView

__all__ = [
    "DiskView",
    "ImageShare",
    "ImageView",
    "Images",
    "PlatformView",
    "RuleShareView",
    "ShareView",
    "UsageView",
]
