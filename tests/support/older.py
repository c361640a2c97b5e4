"""A cache directory as store version 1 laid it out: its tables and stamp, no log of changes, no seals."""

import sqlite3
from pathlib import Path

from tests.support.images import Image

RECORDS_1 = """
CREATE TABLE tags (
    scope TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL,
    digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    first_seen REAL NOT NULL, last_checked REAL NOT NULL, origin TEXT NOT NULL,
    PRIMARY KEY (scope, repository, tag)
) WITHOUT ROWID;
CREATE TABLE links (
    scope TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    media_type TEXT, size INTEGER NOT NULL,
    PRIMARY KEY (scope, repository, digest)
) WITHOUT ROWID;
"""
INDEX_1 = """
CREATE TABLE places (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, repository TEXT NOT NULL,
    UNIQUE (scope, repository));
CREATE TABLE manifests (place INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    fetched_at REAL, PRIMARY KEY (place, digest)) WITHOUT ROWID;
CREATE TABLE children (place INTEGER NOT NULL, parent TEXT NOT NULL, position INTEGER NOT NULL,
    child TEXT NOT NULL, size INTEGER NOT NULL, is_manifest INTEGER NOT NULL,
    PRIMARY KEY (place, parent, position)) WITHOUT ROWID;
CREATE TABLE jobs (scope TEXT NOT NULL, repository TEXT NOT NULL, manifest TEXT NOT NULL,
    rule TEXT NOT NULL, queued_at REAL NOT NULL, due_at REAL NOT NULL, attempts INTEGER NOT NULL,
    state TEXT NOT NULL, error TEXT, PRIMARY KEY (scope, repository, manifest));
CREATE TABLE uses (digest TEXT PRIMARY KEY, used_at REAL NOT NULL) WITHOUT ROWID;
"""


def lay_out_version_1(root: Path, upstream: str, repository: str, tag: str, image: Image, checked_at: float) -> None:
    """A stopped store that holds one image, with its backup."""
    for folder in ("parts", "blobs/sha256", "blobs/sha384", "blobs/sha512"):
        (root / folder).mkdir(parents=True, mode=0o700)
    (root / "version").write_text("cistern store 1\n")
    (root / "lock").write_text("")
    for part in (*image.all_manifests(), *image.all_blobs()):
        path = root / "blobs" / "sha256" / part.digest.encoded[:2] / part.digest.encoded
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(part.data)
    for name in ("records.sqlite", "records.backup.sqlite"):
        connection = sqlite3.connect(root / name)
        connection.executescript(RECORDS_1)
        place, found = (upstream, repository), image.manifest
        row = (
            *place,
            tag,
            str(found.digest),
            image.manifest.media_type,
            found.size,
            1.0,
            checked_at,
            "https://r.example",
        )
        connection.execute("INSERT INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        manifests = [(*place, str(part.digest), part.media_type, part.size) for part in image.all_manifests()]
        links = [*manifests, *((*place, str(part.digest), None, part.size) for part in image.all_blobs())]
        connection.executemany("INSERT INTO links VALUES (?, ?, ?, ?, ?)", links)
        connection.commit()
        connection.close()
    index = sqlite3.connect(root / "index.sqlite")
    index.executescript(INDEX_1)
    index.close()
