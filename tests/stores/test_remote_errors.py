"""What a service says is told as what it means, with a remedy: by table, by real servers, by their answers replayed."""

# fixtures are imported, and asked for by name

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from zarr.core.buffer import default_buffer_prototype

from tests.clouds import CloudBucket, every_cloud, every_s3
from tests.fault_proxy import FaultProxy
from tests.optional import require
from tests.programs import free_port
from zarrstream import errors
from zarrstream.errors import StoreAccessError, StoreOptionError, StoreUnavailableError
from zarrstream.stores.buckets import failures as remote_failures
from zarrstream.stores.buckets.answers import CutShortError
from zarrstream.stores.buckets.connection import ClosedError
from zarrstream.stores.buckets.errors import failure
from zarrstream.stores.buckets.failures import CODES, STATUS, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

require("tenacity")
FAILURES = {name: value for name, value in vars(remote_failures).items() if isinstance(value, Failure)}
PAGE = Path(__file__).parents[2] / "docs" / "stores" / "clouds.md"


def rows() -> Iterator[str]:
    """The table of the documentation, from the code."""
    for name in (
        *("THROTTLED", "SERVER", "SLOW", "UNREACHABLE", "NO_HOST", "CUT_SHORT", "DAMAGED", "ODD", "CONFLICT"),
        *(
            "NO_CONTAINER",
            "HELD",
            "DENIED",
            "CREDENTIALS",
            "EXPIRED",
            "CLOCK",
            "REGION",
            "TLS",
            "RANGE",
            "CLOSED",
            "OPTIONS",
            "UNKNOWN",
        ),
    ):
        found = FAILURES[name]
        columns = [CODES["s3"], CODES["gs"], CODES["az"], STATUS]
        cells = [", ".join(f"`{code}`" for code, meant in column.items() if meant is found) for column in columns]
        made_again = "yes" if found.passes else "no"
        yield f"| {found.what} | {' | '.join(cells)} | {made_again} | `{found.raised.__name__}` | {found.remedy} |"


def test_the_documented_table_is_the_codes() -> None:
    """Every kind of failure is in it, with all its codes."""
    expected = list(rows())
    assert len(expected) == len(FAILURES)
    assert "\n".join(expected) in PAGE.read_text()


def test_no_failure_is_an_error_that_zarr_takes_for_absence() -> None:
    absent = (KeyError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
    assert not [name for name, found in FAILURES.items() if issubclass(found.raised, absent)]
    assert all(found.what and found.remedy for found in FAILURES.values())


def test_what_gcs_and_azure_clients_raise_is_known() -> None:
    """Their own kinds of errors, as their sources make them."""
    HttpError = require("gcsfs.retry").HttpError  # a class  # noqa: N806  # a class
    azure = require("azure.core.exceptions")
    known: list[tuple[BaseException, str, str]] = [
        (HttpError({"code": 503, "message": "later"}), "gs", "THROTTLED"),
        (HttpError({"code": "429", "message": "later"}), "gs", "THROTTLED"),
        (HttpError({"code": 401, "message": "Invalid Credentials"}), "gs", "CREDENTIALS"),
        (OSError("Forbidden: https://x/y\nno"), "gs", "DENIED"),
        (FileNotFoundError("b/o"), "gs", "NO_CONTAINER"),
        (azure.ServiceRequestError("cannot connect"), "az", "UNREACHABLE"),
        (azure.ServiceResponseTimeoutError("late"), "az", "SLOW"),
        (azure.ClientAuthenticationError("who?"), "az", "CREDENTIALS"),
        (azure.IncompleteReadError("cut"), "az", "CUT_SHORT"),
        (ClosedError(), "gs", "CLOSED"),
        (CutShortError("1 of 2 bytes came"), "s3", "CUT_SHORT"),
        (TimeoutError(), "s3", "SLOW"),
        (ConnectionResetError(), "s3", "UNREACHABLE"),
        (TypeError("what"), "s3", "OPTIONS"),
        (RuntimeError("what"), "s3", "UNKNOWN"),
    ]
    for error, back_end, name in known:
        assert failure(error, back_end) is FAILURES[name], (error, name)


@pytest.mark.parametrize(
    ("reason", "name"), [("userRateLimitExceeded", "THROTTLED"), ("retentionPolicyNotMet", "HELD"), ("other", "DENIED")]
)
def test_google_s_reasons_say_more_than_its_status(reason: str, name: str) -> None:
    """A refusal for too many requests, and one by a policy, are both 403."""
    require("gcsfs")
    from zarrstream.stores.buckets.gcs import _RefusedError

    told = {"error": {"code": 403, "message": "no", "errors": [{"domain": "global", "reason": reason}]}}
    assert failure(_RefusedError(403, json.dumps(told).encode()), "gs") is FAILURES[name]
    assert failure(_RefusedError(403, b"<html>"), "gs") is FAILURES["DENIED"]


def ask(store: Any, key: str = "k") -> Any:
    async def work() -> Any:
        return await store.get(key, default_buffer_prototype())

    try:
        return asyncio.run(work())
    finally:
        store.close()


@every_s3
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("403 AccessDenied", "DENIED"),
        ("403 InvalidAccessKeyId", "CREDENTIALS"),
        ("400 ExpiredToken", "EXPIRED"),
        ("403 RequestTimeTooSkewed", "CLOCK"),
        ("400 AuthorizationHeaderMalformed", "REGION"),
        ("503 SlowDown", "THROTTLED"),
        ("500 InternalError", "SERVER"),
        ("409 OperationAborted", "CONFLICT"),
        ("404 NoSuchBucket", "NO_CONTAINER"),
    ],
)
def test_an_answer_is_told_with_its_code_and_its_remedy(bucket: CloudBucket, answer: str, name: str) -> None:
    found = FAILURES[name]
    with FaultProxy(bucket.port, [answer]) as proxy:
        store = bucket.open(port=proxy.port, retry=None)
        with pytest.raises(found.raised, match=re.escape(found.remedy)) as caught:
            ask(store)
    assert answer.split()[1] in str(caught.value)
    assert getattr(caught.value, "passes", False) == found.passes
    assert "s3://" in str(caught.value)


@every_cloud
def test_a_wrong_endpoint_is_unreachable_and_is_tried_again(bucket: CloudBucket) -> None:
    """Nobody listens there."""
    store = bucket.open(port=free_port(), retry=None)
    with pytest.raises(StoreUnavailableError, match=r"cannot be reached .*check endpoint_url") as caught:
        ask(store)
    assert caught.value.passes


@every_s3
def test_a_server_without_tls_is_told_as_such(bucket: CloudBucket) -> None:
    """An endpoint of https, where http is spoken."""
    store = bucket.open(endpoint_url=f"https://127.0.0.1:{bucket.port}", retry=None)
    with pytest.raises(StoreUnavailableError):
        ask(store)


@every_cloud
def test_wrong_credentials_are_told_as_such(bucket: CloudBucket, cloud: Any) -> None:
    """Where the server asks for any: fake-gcs-server and moto let everybody in."""
    from tests.clouds import azure_string

    wrong = {
        "s3": {"storage_options": {"key": "zarrstream", "secret": "wrong-wrong-wrong"}},
        "az": {"connection_string": azure_string(bucket.port, "d3Jvbmctd3Jvbmctd3Jvbmc=")},
        "gs": {},
    }[cloud.scheme]
    store = bucket.open(retry=None, **wrong)
    if cloud.name in {"gcsfs", "moto"}:
        assert ask(store) is None
        return
    # Azurite says of a wrong key what Azure says of a right that is missing.
    with pytest.raises(StoreAccessError, match=r"check key and secret|may not be used so with these") as caught:
        ask(store)
    assert "wrong" not in str(caught.value)
    assert "d3Jv" not in repr(caught.value)


@every_s3
def test_a_bucket_that_cannot_be_named_so_is_an_option(bucket: CloudBucket) -> None:
    with pytest.raises(StoreOptionError):
        ask(CloudBucket(bucket.row, bucket.port, "NO_BUCKET..").open(retry=None))


def test_every_error_of_ours_is_public() -> None:
    assert {found.raised.__name__ for found in FAILURES.values()} <= set(vars(errors))
