"""Which file system a path stands on, as /proc/self/mountinfo tells it (proc(5)). Pure but for reading that file."""

import re
from pathlib import Path, PurePath
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
# Other machines change files behind our back there, locks and mmap (which SQLite's WAL needs) are not what they are on
# a disk, and a server that is away hangs every thread that touches it.
NETWORK: Final = re.compile(
    r"9p|afs|beegfs|ceph|cifs|davfs|glusterfs|gpfs|lustre|ncpfs|nfs|nfs4|orangefs|smb3|smbfs"
    r"|fuse\.(ceph|davfs|gcsfuse|glusterfs|goofys|juicefs|rclone|s3fs|seaweedfs|sshfs)"
)
OCTAL: Final = re.compile(r"\\([0-7]{3})")


def read_mounts() -> str:
    """The mounts of this process; empty where the system does not tell them."""
    try:
        return MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        return ""


def network_file_system(path: PurePath, mountinfo: str) -> str | None:
    """The type of the network file system that an absolute path stands on, None if it stands on none."""
    kind = file_system_of(path, mountinfo)
    return kind if kind is not None and NETWORK.fullmatch(kind) else None


def file_system_of(path: PurePath, mountinfo: str) -> str | None:
    """The type of the innermost mount over a path; of several at one place the last one counts."""
    best, depth = None, -1
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = PurePath(OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            best, depth = right.split(" ")[0], len(point.parts)
    return best
