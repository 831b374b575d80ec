"""Transactions and snapshots of a store: where its mapping has such."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from zarrstream.errors import StoreOptionError, TransactionConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from zarrstream.mappings.base import ByteMapping
    from zarrstream.stores.mapping import MappingStore

T = TypeVar("T")
_LONGEST_PAUSE = 0.5  # seconds between two attempts


class Transactional:
    """What a `MappingStore` on a database offers beside zarr's own verbs."""

    if TYPE_CHECKING:
        _bytes: ByteMapping

        def _check_writable(self) -> None: ...

    def transaction(self) -> AbstractContextManager[MappingStore]:
        """Begin a SERIALIZABLE transaction.

        Returns
        -------
        context manager
            It yields a store. What goes through that store, from any thread, is one commit at the end of the block,
            and nothing else is; if the block raises, nothing is stored. It does not pickle.

        Raises
        ------
        TypeError
            The store has no transactions.
        ValueError
            The store is read-only.
        TransactionConflictError
            In the block or at its end: another transaction read or wrote the same. See `in_transaction`.
        """
        begin = self._offered("transaction")
        self._check_writable()
        return _bound(type(self), begin, read_only=False)

    def snapshot(self) -> AbstractContextManager[MappingStore]:
        """Begin a REPEATABLE READ transaction that only reads.

        Returns
        -------
        context manager
            It yields a read-only store that shows one version until the end of the block, whatever others write. It
            does not pickle.

        Raises
        ------
        TypeError
            The store has no snapshots.
        """
        return _bound(type(self), self._offered("snapshot"), read_only=True)

    def in_transaction(self, work: Callable[[MappingStore], T], *, attempts: int = 5) -> T:
        """Run a function in a transaction, and again where that is in conflict with another one.

        Parameters
        ----------
        work : callable
            It is given the transaction's store; what it returns is returned. It may be called again, so what it does
            elsewhere than in that store has to bear that.
        attempts : int, optional
            How often at most.

        Raises
        ------
        TransactionConflictError
            The last attempt was in conflict as well.
        TypeError
            The store has no transactions.
        StoreOptionError
            ``attempts`` is less than 1.
        """
        if attempts < 1:
            raise StoreOptionError(f"attempts is a number, 1 or more, not {attempts!r}")
        for attempt in range(1, attempts):
            try:
                with self.transaction() as store:
                    return work(store)
            except TransactionConflictError:
                pause = min(0.005 * 2**attempt, _LONGEST_PAUSE)
                time.sleep(random.uniform(0, pause))  # noqa: S311  # so that equals part; no secret
        with self.transaction() as store:
            return work(store)

    def _offered(self, name: str) -> Callable[[], AbstractContextManager[ByteMapping]]:
        begin: Any = getattr(self._bytes, name, None)
        if begin is None:
            raise TypeError(f"{self} has no transactions and no snapshots: stores at postgresql:// have")
        return begin  # type: ignore[no-any-return]  # found by name


@contextmanager
def _bound(
    kind: Any,  # noqa: ANN401  # MappingStore, whose base this is
    begin: Callable[[], AbstractContextManager[ByteMapping]],
    *,
    read_only: bool,
) -> Iterator[MappingStore]:
    with begin() as mapping:
        yield kind(mapping, read_only=read_only)
