"""Signed addresses of blobs: who has one may read that blob in that repository from the data address, for a while.

HMAC-SHA256 over everything that decides what is read and until when. A signature says that this cache answered the
question with a redirect; it opens nothing that the registry address would not. Knows no requests and no files.
"""

import hashlib
import hmac
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from proxy.errors import LinkRefused
from proxy.oci import Digest

VALID_S: Final = 600  # at least; containerd and BuildKit take up a cut layer by the registry's address, not by this one
STEP_S: Final = 60  # for so long a blob's address stays the same, for whoever caches by it
SECRET_MIN: Final = 32  # characters: 128 bits as hexadecimal digits
EXPIRES: Final = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
PURPOSE: Final = "cistern data address 1"


@dataclass(frozen=True, slots=True)
class Grant:
    """What an address lets its holder read: a blob by the name the client used for its repository."""

    prefix: str | None
    namespace: str | None
    name: str
    digest: Digest

    def message(self, expires: str, key: str) -> bytes:
        """The bytes that are signed: a line each, so that no two grants have the same ones."""
        fields = (PURPOSE, self.prefix or "", self.namespace or "", self.name, str(self.digest), expires, key)
        return "\n".join(fields).encode()

    @property
    def path(self) -> str:
        prefix = "" if self.prefix is None else f"/{quote(self.prefix)}"
        return f"{prefix}/v2/{self.name}/blobs/{self.digest}"


@dataclass(frozen=True, slots=True)
class Key:
    """One secret. `id` names it in an address without telling anything of it; `until` (Unix seconds) is when the last
    address that it signed has expired, infinite while it stands in the configuration.
    """

    id: str
    secret: bytes
    until: float = math.inf

    def sign(self, message: bytes) -> str:
        return hmac.digest(self.secret, message, "sha256").hex()


class Keys:
    """The first key signs; addresses signed by any of them are good until they expire."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys: tuple[Key, ...] = ()

    def take(self, secrets: Sequence[str]) -> None:
        """From now on these, the first one signing; those not among them count until their addresses have expired."""
        now = self._clock()
        given = {key.id: key for key in map(_key_of, secrets)}
        for key in self._keys:
            if key.id not in given and key.until > now:
                given[key.id] = Key(key.id, key.secret, min(key.until, now + VALID_S + STEP_S))
        self._keys = tuple(given.values())

    @property
    def can_sign(self) -> bool:
        return bool(self._keys) and math.isinf(self._keys[0].until)

    def address(self, url: str, grant: Grant) -> str:
        """The address of a blob at the data address `url`. RuntimeError: there is no key, see `can_sign`."""
        if not self.can_sign:
            raise RuntimeError("no key to sign with")
        key = self._keys[0]
        expires = str(int(self._clock()) // STEP_S * STEP_S + STEP_S + VALID_S)
        signature = key.sign(grant.message(expires, key.id))
        named = {} if grant.namespace is None else {"ns": grant.namespace}
        query = urlencode({**named, "expires": expires, "key": key.id, "signature": signature})
        return f"{url}{grant.path}?{query}"

    def check(self, grant: Grant, values: Mapping[str, list[str]]) -> None:
        """Raises LinkRefused unless the query's `values` are a signature over this grant that has not expired."""
        expires, named, signature = (_only(values, name) for name in ("expires", "key", "signature"))
        now = self._clock()
        key = next((key for key in self._keys if key.id == named and now < key.until), None)
        if key is None or EXPIRES.fullmatch(expires) is None:
            raise LinkRefused("not an address that this cache has signed: ask the registry address")
        # Compared as bytes and in constant time: how much of a guess was right must not show.
        if not hmac.compare_digest(key.sign(grant.message(expires, key.id)).encode(), signature.encode()):
            raise LinkRefused("not an address that this cache has signed: ask the registry address")
        if now >= int(expires):
            raise LinkRefused("this address has expired: ask the registry address for another one")


def _only(values: Mapping[str, list[str]], name: str) -> str:
    found = values.get(name, [])
    return found[0] if len(found) == 1 else ""


def _key_of(secret: str) -> Key:
    return Key(hashlib.sha256(f"{PURPOSE} id\n{secret}".encode()).hexdigest()[:8], secret.encode())


def secrets_in(text: str) -> list[str]:
    """The secrets of a file or variable, one a line or word, the signing one first. ValueError, which repeats none."""
    found = text.split()
    if not found:
        raise ValueError("holds no key")
    if any(len(secret) < SECRET_MIN for secret in found):
        raise ValueError(f"holds a key of less than {SECRET_MIN} characters: `openssl rand -hex 32` makes a good one")
    return found
