"""One transfer's room on the disk: claimed before anything is written into its part, given back when that is decided.

Knows the capacity's port and its own claim; nothing of readers. A size that nobody told is covered in steps.
"""

from collections.abc import Callable

from proxy.capacity.base import STEP, Admission
from proxy.ledger import Claim, blocks_for


class Allotment:
    """`size` tells the blob's size as far as it is known by then."""

    def __init__(self, capacity: Admission, claim: Claim, size: Callable[[], int | None]) -> None:
        self._capacity = capacity
        self._claim = claim
        self._size = size

    def cover(self, end: int) -> None:
        """There is room for the part up to byte `end` before it is written. Raises NotKept."""
        if blocks_for(end) > self._claim.promised:
            size = self._size()
            self._capacity.extend(self._claim, (end // STEP + 1) * STEP if size is None else max(size, end))

    def admit(self, size: int) -> None:
        """There is room for a blob whose size was just told, before anybody hears that it is kept. Raises NotKept."""
        if blocks_for(size) > self._claim.promised:
            self._capacity.extend(self._claim, size)

    def wrote(self, total: int) -> None:
        """So many bytes of it stand in the part now."""
        self._claim.written = total

    def release(self) -> None:
        """Nothing more will be written, and what was is booked elsewhere or gone."""
        self._claim.release()
