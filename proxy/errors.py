"""One error tree, and the one table from error to HTTP status and OCI code.

An error carries facts (which upstream, how long to wait); only this table knows what a client is told.
Codes are those of the OCI distribution spec 1.1 ("Error Codes"), plus the reference registry's UNKNOWN and UNAVAILABLE.
"""

import enum
import errno
from typing import Final


class CisternError(Exception):
    """Everything Cistern raises on purpose. `retry_after_s` becomes a Retry-After header."""

    retry_after_s: float | None = None

    @property
    def reason(self) -> str:
        """A bounded word for logs, metrics and `Cache-Status: detail=`."""
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("_")


class ConfigInvalid(CisternError):
    """The configuration is refused; `problems` lists every line `FILE:LINE: key: reason`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StoreBusy(CisternError):
    """Another server owns the cache directory."""


class StoreRefused(CisternError):
    """The cache directory cannot be used: not ours, too new, not a directory, planted links."""


# What a client asked for is wrong, or not here.


class ClientFault(CisternError):
    """The request itself is at fault: no upstream and no file is touched."""


class NameInvalid(ClientFault): ...


class TagInvalid(ClientFault): ...


class DigestInvalid(ClientFault): ...


class PathUnknown(ClientFault): ...


class MethodUnsupported(ClientFault): ...


class PaginationInvalid(ClientFault): ...


class RangeInvalid(ClientFault):
    """A Range header that is refused: malformed beyond ignoring, or made to amplify."""


class RangeUnsatisfiable(ClientFault):
    """No byte of the range exists; `size` is the whole length, None where it is not known here."""

    def __init__(self, size: int | None) -> None:
        length = "any blob" if size is None else f"the {size} bytes of this blob"
        super().__init__(f"the range lies outside {length}")
        self.size = size


class NotHere(CisternError):
    """What was asked for does not exist, as far as anyone can tell."""


class NameUnknown(NotHere): ...


class ManifestUnknown(NotHere): ...


class BlobUnknown(NotHere): ...


class Denied(CisternError):
    """A rule, the block list or the upstream refuses."""


class LinkRefused(Denied):
    """An address of the data address that was not signed here, or has expired."""


class Overloaded(CisternError):
    """This member has no room for the request."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})  # no fault of a disk or an upstream


def refused(error: OSError) -> Overloaded:
    """What a client hears of an error of this machine: its disk refuses, or it has no file descriptor left."""
    why = error.strerror or str(error)
    if error.errno in NO_DESCRIPTOR:
        return Overloaded(f"this member is out of file descriptors: {why}")
    return Overloaded(f"the cache's disk refuses: {why}", retry_after_s=5.0)


class NotKept(Overloaded):
    """The cache has no room for a body, or its disk takes none: it can be streamed, not stored. `why` is the reason,
    a word of a bounded set.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message, retry_after_s=5.0)
        self.why = why

    @property
    def reason(self) -> str:
        return self.why


# What an upstream did. What follows from each class of failure stands in `failures`.


class Failure(enum.Enum):
    """How an upstream failed. The values are bounded words for logs, metrics and health."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    SLOW = "slow"
    SERVER_ERROR = "server_error"
    CUT = "cut"
    LEFT_ALONE = "left_alone"
    BUSY = "busy"
    DESCRIPTORS = "descriptors"
    THROTTLED = "throttled"
    DENIED = "denied"
    CREDENTIAL_REFUSED = "credential_refused"
    CREDENTIAL_UNAVAILABLE = "credential_unavailable"
    NOT_FOUND = "not_found"
    BAD_CONTENT = "bad_content"


class UpstreamFault(CisternError):
    """An upstream could not give what it should; `upstream` names it, `failure` is the class of it."""

    failure: Failure = Failure.BAD_CONTENT
    status: int | None = None  # what it answered, None where no answer came or its content was the fault

    def __init__(self, upstream: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"upstream {upstream}: {message}")
        self.upstream = upstream
        self.retry_after_s = retry_after_s


class UpstreamUnavailable(UpstreamFault):
    """Unreachable, 5xx, or its breaker is open: an outage."""

    failure = Failure.CONNECT

    def __init__(
        self, upstream: str, message: str, retry_after_s: float | None = None, *, failure: Failure | None = None
    ) -> None:
        super().__init__(upstream, message, retry_after_s)
        if failure is not None:
            self.failure = failure


class UpstreamTimeout(UpstreamFault):
    """It did not answer in time: an outage."""

    failure = Failure.TIMEOUT


class UpstreamSlow(UpstreamTimeout):
    """It has not answered within `check_within`: what is held is served, and the check goes on."""

    failure = Failure.SLOW


class UpstreamThrottled(UpstreamFault):
    """429: come back after `retry_after_s`. A pull limit is one on GET of manifests alone, for hours."""

    failure = Failure.THROTTLED

    def __init__(
        self, upstream: str, message: str, retry_after_s: float | None = None, *, is_pull_limit: bool = False
    ) -> None:
        super().__init__(upstream, message, retry_after_s)
        self.is_pull_limit = is_pull_limit


class UpstreamLied(UpstreamFault):
    """It answered what cannot be true: another digest, a short body, HTML. Never an outage, never stored."""

    failure = Failure.BAD_CONTENT


class WrongDigest(UpstreamLied):
    """A whole body does not hash to its digest."""


class DialRefused(UpstreamLied):
    """An upstream pointed (redirect, realm, Link, DNS) to an address that it may not lead to."""


class UpstreamNotFound(UpstreamFault):
    """404 after authentication; the caller says what kind of thing is missing."""

    failure = Failure.NOT_FOUND


class UpstreamDenied(UpstreamFault):
    """401 or 403 with fresh credentials. `anonymous` says that none were sent."""

    failure = Failure.DENIED

    def __init__(self, upstream: str, message: str, *, credentials: str | None) -> None:
        super().__init__(upstream, message)
        self.credentials = credentials

    @property
    def anonymous(self) -> bool:
        return self.credentials is None


class CredentialUnavailable(UpstreamUnavailable):
    """The credential or token could not be obtained: an outage, not a denial."""

    failure = Failure.CREDENTIAL_UNAVAILABLE


class CredentialRefused(UpstreamDenied):
    """The token realm refused the credential itself."""

    failure = Failure.CREDENTIAL_REFUSED


class TransferFailed(UpstreamFault):
    """A transfer ended without its whole, verified body after bytes had flowed."""

    failure = Failure.CUT


def upstream_status(error: BaseException | None) -> int | None:
    """The HTTP status by which an upstream caused this error, None if by none."""
    while error is not None:
        if isinstance(error, UpstreamFault) and error.status is not None:
            return error.status
        error = error.__cause__
    return None


ANSWERS: Final[dict[type[CisternError], tuple[int, str]]] = {
    NameInvalid: (400, "NAME_INVALID"),
    TagInvalid: (404, "MANIFEST_UNKNOWN"),  # a tag outside the grammar cannot exist; clients then try the next host
    DigestInvalid: (400, "DIGEST_INVALID"),
    PathUnknown: (404, "NAME_UNKNOWN"),
    MethodUnsupported: (405, "UNSUPPORTED"),
    PaginationInvalid: (400, "PAGINATION_NUMBER_INVALID"),
    RangeInvalid: (400, "SIZE_INVALID"),
    RangeUnsatisfiable: (416, "SIZE_INVALID"),
    NameUnknown: (404, "NAME_UNKNOWN"),
    ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    BlobUnknown: (404, "BLOB_UNKNOWN"),
    Denied: (403, "DENIED"),
    Overloaded: (503, "UNAVAILABLE"),
    UpstreamUnavailable: (503, "UNAVAILABLE"),
    UpstreamTimeout: (504, "UNAVAILABLE"),
    UpstreamThrottled: (429, "TOOMANYREQUESTS"),
    UpstreamLied: (502, "UNKNOWN"),
    UpstreamNotFound: (404, "NAME_UNKNOWN"),
    UpstreamDenied: (403, "DENIED"),
    TransferFailed: (502, "UNKNOWN"),
    CisternError: (500, "UNKNOWN"),
}


def answer(error: CisternError) -> tuple[int, str]:
    """The HTTP status and OCI code of an error: its own line of the table, or its nearest ancestor's."""
    return next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
