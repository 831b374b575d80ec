"""What the cloud's errors mean to a user: the tables by which they become ours, and which of them pass."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from zarrstream.errors import (
    StoreAccessError,
    StoreCorruptError,
    StoreError,
    StoreOptionError,
    StoreTimeoutError,
    StoreUnavailableError,
    ZarrStreamError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Failure:
    """One way in which a request fails.

    Attributes
    ----------
    raised : type
        The error that it becomes.
    what : str
        What is wrong: a predicate, whose subject is the place.
    remedy : str
        What to do about it.
    passes : bool
        Whether the same request may succeed a moment later, and is therefore made again.
    """

    raised: type[ZarrStreamError]
    what: str
    remedy: str
    passes: bool = False


NO_CONTAINER: Final = Failure(
    StoreUnavailableError,
    "is lost: its bucket or container is not there",
    "check its name, the account and the endpoint",
)
DENIED: Final = Failure(
    StoreAccessError,
    "may not be used so with these credentials",
    "grant reading (GetObject, ListBucket) or writing (PutObject, DeleteObject) too; where only listing is denied, "
    "missing_on_403=True takes a refusal for an absent chunk",
)
CREDENTIALS: Final = Failure(
    StoreAccessError,
    "refused the credentials, or found none",
    "check key and secret, or where your client takes them from (environment, files, roles)",
)
EXPIRED: Final = Failure(StoreAccessError, "refused credentials that have expired", "get new ones, and open it again")
CLOCK: Final = Failure(StoreAccessError, "has another time than this machine", "set this machine's clock")
REGION: Final = Failure(StoreUnavailableError, "is in another region", "pass region=, as the bucket has it")
THROTTLED: Final = Failure(
    StoreUnavailableError,
    "asks for fewer requests",
    "lower max_concurrency or rate, or raise retry's deadline",
    passes=True,
)
SERVER: Final = Failure(
    StoreUnavailableError, "failed at the server's side", "try again; if it stays so, ask who runs it", passes=True
)
UNREACHABLE: Final = Failure(
    StoreUnavailableError, "cannot be reached", "check endpoint_url, the network and the proxies between", passes=True
)
NO_HOST: Final = Failure(
    StoreUnavailableError,
    "has an endpoint that nobody knows",
    "check endpoint_url and region, and the name server",
    passes=True,
)
SLOW: Final = Failure(
    StoreTimeoutError, "did not answer in time", "raise retry's attempt_timeout, or look at the network", passes=True
)
CUT_SHORT: Final = Failure(
    StoreUnavailableError, "sent less than it had promised", "try again; look at the proxies between", passes=True
)
TLS: Final = Failure(
    StoreUnavailableError,
    "has a certificate that is not trusted, or speaks no TLS",
    "check endpoint_url and the certificates here",
)
CONFLICT: Final = Failure(
    StoreUnavailableError, "was changed by somebody else at that moment", "try again", passes=True
)
RANGE: Final = Failure(
    StoreCorruptError, "does not have the range that was asked for", "read it again; it may have been replaced"
)
ODD: Final = Failure(
    StoreUnavailableError,
    "answered what is no answer",
    "check endpoint_url: something else may listen there",
    passes=True,
)
CLOSED: Final = Failure(
    StoreUnavailableError,
    "was closed while a request was on its way",
    "close it after the last; any later use opens it",
)
OPTIONS: Final = Failure(StoreOptionError, "does not take this request", "check bucket, key and options")
UNKNOWN: Final = Failure(StoreError, "failed", "see the error that this one was raised from")

#: Back end -> the code that its server gives -> what that is.
CODES: Final[dict[str, Mapping[str, Failure]]] = {
    # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    "s3": {
        "NoSuchBucket": NO_CONTAINER,
        "AllAccessDisabled": DENIED,
        "AccessDenied": DENIED,
        "AccountProblem": DENIED,
        "Forbidden": DENIED,
        "InvalidAccessKeyId": CREDENTIALS,
        "InvalidToken": CREDENTIALS,
        "SignatureDoesNotMatch": CREDENTIALS,
        "AuthorizationHeaderMalformed": REGION,
        "ExpiredToken": EXPIRED,
        "TokenRefreshRequired": EXPIRED,
        "RequestExpired": EXPIRED,
        "RequestTimeTooSkewed": CLOCK,
        "PermanentRedirect": REGION,
        "TemporaryRedirect": REGION,
        "IllegalLocationConstraintException": REGION,
        "SlowDown": THROTTLED,
        "SlowDownRead": THROTTLED,
        "SlowDownWrite": THROTTLED,
        "RequestLimitExceeded": THROTTLED,
        "Throttling": THROTTLED,
        "ThrottlingException": THROTTLED,
        "TooManyRequests": THROTTLED,
        "InternalError": SERVER,
        "ServiceUnavailable": THROTTLED,
        "RequestTimeout": SLOW,
        "OperationAborted": CONFLICT,
        "ConditionalRequestConflict": CONFLICT,
        "BadDigest": CUT_SHORT,
        "IncompleteBody": CUT_SHORT,
        "XAmzContentSHA256Mismatch": CUT_SHORT,
        "InvalidRange": RANGE,
        "InvalidBucketName": OPTIONS,
        "KeyTooLongError": OPTIONS,
    },
    # https://cloud.google.com/storage/docs/json_api/v1/status-codes: what is to be known is in the status.
    "gs": {},
    # https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
    "az": {
        "ContainerNotFound": NO_CONTAINER,
        "ContainerBeingDeleted": NO_CONTAINER,
        "ContainerDisabled": NO_CONTAINER,
        "AuthenticationFailed": CREDENTIALS,
        "InvalidAuthenticationInfo": CREDENTIALS,
        "NoAuthenticationInformation": CREDENTIALS,
        "AuthorizationFailure": DENIED,
        "AuthorizationPermissionMismatch": DENIED,
        "AuthorizationProtocolMismatch": TLS,
        "InsufficientAccountPermissions": DENIED,
        "AccountIsDisabled": DENIED,
        "ServerBusy": THROTTLED,
        "OperationTimedOut": SLOW,
        "InternalError": SERVER,
        "InvalidRange": RANGE,
        "InvalidResourceName": OPTIONS,
    },
}

#: HTTP's status -> what that is, where the server gave no code that says more.
STATUS: Final[Mapping[int, Failure]] = {
    400: OPTIONS,
    401: CREDENTIALS,
    403: DENIED,
    404: ODD,
    408: SLOW,
    409: CONFLICT,
    412: CONFLICT,
    416: RANGE,
    429: THROTTLED,
    499: ODD,
    500: SERVER,
    502: SERVER,
    503: THROTTLED,
    504: SERVER,
}

# The names of errors that no answer came with, the most particular first.
_NAMES: Final[tuple[tuple[frozenset[str], Failure], ...]] = (
    (frozenset({"ClosedError"}), CLOSED),
    (frozenset({"CutShortError", "ClientPayloadError", "IncompleteReadError", "ContentLengthError"}), CUT_SHORT),
    (frozenset({"ResponseStreamingError", "ResponseParserError", "IncompleteRead", "ContentTypeError"}), CUT_SHORT),
    (frozenset({"NoContainerError"}), NO_CONTAINER),
    (frozenset({"OddAnswerError", "BadStatusLine", "InvalidStatus"}), ODD),
    (frozenset({"JSONDecodeError", "DecodeError", "ClientResponseError"}), ODD),
    (frozenset({"SSLCertVerificationError", "SSLError", "ClientConnectorSSLError", "ClientSSLError"}), TLS),
    (frozenset({"ClientConnectorCertificateError", "CertificateError"}), TLS),
    (frozenset({"gaierror", "ClientConnectorDNSError"}), NO_HOST),
    (frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}), CREDENTIALS),
    (frozenset({"DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"}), CREDENTIALS),
    (frozenset({"CredentialUnavailableError", "UnauthenticatedError", "GoogleAuthError"}), CREDENTIALS),
    (frozenset({"PermissionDeniedError"}), DENIED),
    (frozenset({"ConnectTimeoutError", "ReadTimeoutError", "TimeoutError", "ServerTimeoutError"}), SLOW),
    (frozenset({"ServiceResponseTimeoutError", "SocketTimeoutError", "ConnectionTimeoutError"}), SLOW),
    (frozenset({"ProxyError", "ConnectionError", "ClientConnectionError", "ServiceRequestError"}), UNREACHABLE),
    (frozenset({"ServiceResponseError", "HTTPClientError", "EndpointConnectionError"}), UNREACHABLE),
    (frozenset({"ParamValidationError", "InvalidRegionError", "InvalidPathError"}), OPTIONS),
)
# What obstore says in words alone.
_CODE = re.compile(r"<Code>(\w+)</Code>|^(?:x-ms-error-code|code): (\w+)", re.MULTILINE)
_ANSWERED = re.compile(r"status code: (\d{3})")
_WORDS: Final[tuple[tuple[str, Failure], ...]] = (
    ("UnknownIssuer", TLS),
    ("InvalidCertificate", TLS),
    ("dns error", NO_HOST),
    ("kind: Timeout", SLOW),
    ("operation timed out", SLOW),
    ("redirect without LOCATION", REGION),
    ("non-partial response", ODD),
    ("Unable to extract metadata", ODD),
    ("Got invalid", ODD),
    ("IncompleteMessage", CUT_SHORT),
    ("error decoding response body", CUT_SHORT),
    ("HTTP error", UNREACHABLE),
    ("not satisfiable", RANGE),
    ("ParseContentRange", RANGE),  # what MinIO says of a range of the empty object
)


def failure(error: BaseException, back_end: str) -> Failure:
    """Return what an error of a client means: the server's code says most, then the status, then the error's kind."""
    chain = tuple(_chain(error))
    readings = (*(_by_code(each, CODES[back_end]) for each in chain), *map(_by_status, chain), *map(_by_kind, chain))
    found = next((reading for reading in readings if reading is not None), None)
    if found is None and isinstance(error, ValueError | TypeError):
        return OPTIONS
    return found or UNKNOWN


def _by_code(error: BaseException, codes: Mapping[str, Failure]) -> Failure | None:
    return next((codes[code] for code in _codes(error) if code in codes), None)


def _by_status(error: BaseException) -> Failure | None:
    for status in _statuses(error):
        if status in STATUS:
            return STATUS[status]
        if status >= 500:  # noqa: PLR2004  # HTTP: the server's fault
            return SERVER
        if status < 400:  # noqa: PLR2004  # HTTP: no refusal, and not what was asked for
            return REGION if _says_region(error) else ODD
    return None


def _says_region(error: BaseException) -> bool:
    """Return whether S3 sends elsewhere, as it does with the name of the bucket's region; a login page does not."""
    response: Any = getattr(error, "response", None)
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}) if isinstance(response, dict) else {}
    return "x-amz-bucket-region" in headers


def _by_kind(error: BaseException) -> Failure | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    for known, found in _NAMES:
        if names & known:
            return found
    if type(error).__module__.startswith("obstore"):
        for words, found in _WORDS:
            if words in str(error):
                return found
    return NO_CONTAINER if isinstance(error, FileNotFoundError) else None


def translated(error: Exception, what: Failure, *, place: str, key: str, secrets: frozenset[str]) -> ZarrStreamError:
    """Return our error for a client's, with ``__cause__`` where that shows no secret."""
    named = f" (key {key!r})" if key else ""
    code = next((code for each in _chain(error) for code in _codes(each)), None) or _status_text(error)
    raised = what.raised(f"{place} {what.what}{named}: {what.remedy}{f' [{code}]' if code else ''}")
    if isinstance(raised, StoreError):
        raised.passes, raised.throttled = what.passes, what is THROTTLED
    shown = not any(secret in repr(each) or secret in str(each) for each in _chain(error) for secret in secrets)
    raised.__cause__ = error if shown else None
    raised.__suppress_context__ = True
    return raised


def status_of(error: BaseException) -> int | None:
    """Return the status that the server answered with, where it answered."""
    return next((status for each in _chain(error) for status in _statuses(each)), None)


def _status_text(error: BaseException) -> str | None:
    status = status_of(error)
    return None if status is None else f"HTTP {status}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _codes(error: BaseException) -> Iterator[str]:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        yield str(response.get("Error", {}).get("Code"))
    code = getattr(error, "error_code", None)  # Azure
    if code is not None:
        yield str(getattr(code, "value", code))
    if type(error).__module__.startswith("obstore") or isinstance(error, FileNotFoundError):
        for found in _CODE.findall(str(error)):
            yield found[0] or found[1]


def _statuses(error: BaseException) -> Iterator[int]:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(response.get("Error", {}).get("Code"))
        if status or code.isdecimal():
            yield int(status or code)
    if type(error).__module__ == "aiohttp.http_exceptions":
        return  # their "400" is aiohttp's view of a broken body, and no server's answer
    for name in ("status_code", "status", "code"):  # Azure, aiohttp, gcsfs
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
            yield int(value)
    if type(error).__module__.startswith("obstore"):
        yield from map(int, _ANSWERED.findall(str(error)))
    elif str(error).startswith("Forbidden: "):  # gcsfs
        yield 403
