"""Deletes a part that nobody is to find again, without a word: a disk that refuses even that is told elsewhere."""

from contextlib import suppress

from proxy.downloads.part import Part


async def discarded(part: Part | None) -> None:
    """Delete a part; a disk that refuses even that is told elsewhere."""
    if part is not None:
        with suppress(OSError):
            await part.discard()
