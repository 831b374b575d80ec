"""In which ways a request to a cloud fails, which of them pass, and which code and status means which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
    from collections.abc import Mapping


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
DAMAGED: Final = Failure(
    StoreUnavailableError,
    "sent what does not match its checksum",
    "try again; if it stays so, look at the proxies between, and at the object",
    passes=True,
)
TLS: Final = Failure(
    StoreUnavailableError,
    "has a certificate that is not trusted, or speaks no TLS",
    "check endpoint_url and the certificates here",
)
CONFLICT: Final = Failure(
    StoreUnavailableError, "was changed by somebody else at that moment", "try again", passes=True
)
HELD: Final = Failure(
    StoreAccessError,
    "keeps this object as it is",
    "look for what holds it: a lease, a snapshot, a policy of retention, an archive tier",
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
        "InvalidObjectState": HELD,
        "BadDigest": CUT_SHORT,
        "IncompleteBody": CUT_SHORT,
        "XAmzContentSHA256Mismatch": CUT_SHORT,
        "InvalidRange": RANGE,
        "InvalidBucketName": OPTIONS,
        "KeyTooLongError": OPTIONS,
    },
    # https://cloud.google.com/storage/docs/json_api/v1/status-codes: where the status says too little.
    "gs": {
        "rateLimitExceeded": THROTTLED,
        "userRateLimitExceeded": THROTTLED,
        "conditionNotMet": CONFLICT,
        "retentionPolicyNotMet": HELD,
        "objectUnderActiveHold": HELD,
        "authError": CREDENTIALS,
    },
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
        **dict.fromkeys(
            (
                *("SnapshotsPresent", "LeaseIdMissing", "LeaseIdMismatchWithBlobOperation", "LeaseLost"),
                *("BlobImmutableDueToPolicy", "BlobArchived", "BlobBeingRehydrated", "InvalidBlobType"),
                *("BlobUsesCustomerSpecifiedEncryption", "DirectoryIsNotEmpty"),
            ),
            HELD,
        ),
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
