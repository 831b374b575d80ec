"""What the errors of the clouds' clients mean to a user, and how they become ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from zarrstream.errors import StoreError, ZarrStreamError
from zarrstream.stores.buckets.failures import (
    CLOSED,
    CODES,
    CREDENTIALS,
    CUT_SHORT,
    DAMAGED,
    DENIED,
    NO_CONTAINER,
    NO_HOST,
    ODD,
    OPTIONS,
    RANGE,
    REGION,
    SERVER,
    SLOW,
    STATUS,
    THROTTLED,
    TLS,
    UNKNOWN,
    UNREACHABLE,
    Failure,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The names of errors that no answer came with, the most particular first.
_NAMES: Final[tuple[tuple[frozenset[str], Failure], ...]] = (
    (frozenset({"ClosedError"}), CLOSED),
    (frozenset({"FlexibleChecksumError", "ChecksumMismatchError"}), DAMAGED),
    (frozenset({"ClientHttpProxyError"}), UNREACHABLE),
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
    ("missing from response", ODD),
    ("IncompleteMessage", CUT_SHORT),
    ("error decoding response body", CUT_SHORT),
    ("HTTP error", UNREACHABLE),
    ("not satisfiable", RANGE),
    ("ParseContentRange", RANGE),  # what MinIO says of a range of the empty object
)


def failure(error: BaseException, back_end: str) -> Failure:
    """Return what an error of a client means: the server's code says most, then the status, then the error's kind."""
    chain = tuple(_chain(error))
    readings = (*(_by_code(each, CODES[back_end]) for each in chain), *map(_by_status, chain), _by_kind(chain))
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


def _by_kind(chain: tuple[BaseException, ...]) -> Failure | None:
    """Return the most particular reading of an error and of what it was raised from."""
    names = {kind.__name__ for error in chain for kind in type(error).__mro__}
    for known, found in _NAMES:
        if names & known:
            return found
    for error in chain:
        if type(error).__module__.startswith("obstore"):
            for words, found in _WORDS:
                if words in str(error):
                    return found
    return NO_CONTAINER if isinstance(chain[0], FileNotFoundError) else None


def has_code(error: BaseException) -> bool:
    """Return whether the service itself has said what is wrong: a proxy's refusal has a status alone."""
    codes = (code for each in _chain(error) for code in _codes(each))
    return any(code and not code.isdecimal() and code != "None" for code in codes)


def translated(error: Exception, what: Failure, *, place: str, key: str, secrets: frozenset[str]) -> ZarrStreamError:
    """Return our error for a client's, with ``__cause__`` where that shows no secret."""
    named = f" (key {key!r})" if key else ""
    code = next((code for each in _chain(error) for code in _codes(each)), None) or _status_text(error)
    raised = what.raised(f"{place} {what.what}{named}: {what.remedy}{f' [{code}]' if code else ''}")
    if isinstance(raised, StoreError):
        raised.passes, raised.throttled = what.passes, what is THROTTLED
    shown = not any(secret in repr(each) or secret in str(each) for each in _everything(error) for secret in secrets)
    raised.__cause__ = error if shown else None
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


def _everything(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all that can be reached from it."""
    seen: dict[int, BaseException] = {}
    left = [error]
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen[id(each)] = each
            left += [other for other in (each.__cause__, each.__context__) if other is not None]
    yield from seen.values()


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
    if type(error).__module__.startswith("aiohttp"):
        return  # their "400" is aiohttp's view of a broken head or body, and no server's answer
    for name in ("status_code", "status", "code"):  # Azure, aiohttp, gcsfs
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
            yield int(value)
    if type(error).__module__.startswith("obstore"):
        yield from map(int, _ANSWERED.findall(str(error)))
    elif str(error).startswith("Forbidden: "):  # gcsfs
        yield 403
