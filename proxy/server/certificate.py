"""The certificate that the registry address shows, replaced while it serves: connections that stand keep theirs.

A context whose files are loaded anew would, between certificate and key, hold two that do not fit. So another context
is made and checked first, and each handshake is handed to the one that counts then.
"""

import ssl
from pathlib import Path

from proxy.errors import ConfigInvalid


class Certificate:
    """`front` is what the listener is bound with; handshakes are served by the context taken last."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.front = context
        self._latest = context
        # Called in every handshake, also when the client names no server.
        self.front.sni_callback = self._hand_over

    def take(self, context: ssl.SSLContext) -> None:
        """Serve every later handshake by this context."""
        self._latest = context

    def _hand_over(self, handshake: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
        handshake.context = self._latest


def context_of(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server context of a PEM chain and its key, TLS 1.2 and later. Blocks; raises ConfigInvalid, naming both."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as cause:  # ssl.SSLError is one
        why = cause.strerror or type(cause).__name__
        raise ConfigInvalid([f"registry.tls: {certificate} and {key} do not serve: {why}"]) from cause
    context.set_alpn_protocols(["http/1.1"])
    return context
