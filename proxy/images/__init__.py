"""Which images are here, and what they take. `Images` is the room; the views are what it tells."""

from proxy.images.room import Images
from proxy.images.views import ImageShare, ImageView, PlatformView, ShareView, UsageView

__all__ = ["ImageShare", "ImageView", "Images", "PlatformView", "ShareView", "UsageView"]
