"""Tokens that Debian's docker-registry believes: a realm whose tokens are signed, and the certificate to check them by.

Written out here (ES256 over `cryptography`, RFC 7515 and docs/spec/auth/jwt.md) so that no test borrows code of the
thing it tests.
"""

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.support.realm import Realm

ISSUER = "cistern tests"


class SigningRealm(Realm):
    """A realm for a real registry: `certificate` is the file that the registry checks its tokens by."""

    def __init__(self, directory: Path, *, service: str = "origin") -> None:
        super().__init__(service, clock=time.time)
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = _self_signed(self._key)
        self._chain = [base64.b64encode(made.public_bytes(serialization.Encoding.DER)).decode()]
        self.certificate = directory / "realm.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def registry_auth(self) -> str:
        """The `auth` section of the registry's config; the realm must have been started."""
        keys = {"realm": self.realm, "service": self.service, "issuer": ISSUER, "rootcertbundle": str(self.certificate)}
        return f"auth: {json.dumps({'token': keys})}"

    def mint(self, repositories: frozenset[str], user: str | None, lifetime_s: float) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user or "",
            "aud": self.service,
            "exp": now + max(1, int(lifetime_s)),
            "nbf": now - 10,
            "iat": now,
            "jti": super().mint(repositories, user, lifetime_s),
            "access": [{"type": "repository", "name": name, "actions": ["pull"]} for name in sorted(repositories)],
        }
        signed = f"{_encoded({'typ': 'JWT', 'alg': 'ES256', 'x5c': self._chain})}.{_encoded(claims)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(part: Mapping[str, object]) -> str:
    return _base64url(json.dumps(part, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
