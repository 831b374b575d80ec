"""The words for an array that is no zarr array, but something near to one, or that belongs to another event loop."""

from __future__ import annotations

from zarr import Group
from zarr.abc.store import Store
from zarr.storage import StorePath

_OPEN = "open it with zarr.open_array(store)"


def array_expected(given: object) -> TypeError:
    """Return the error for a value that was passed in the place of an array.

    Parameters
    ----------
    given : object
        The value. A group is told the names of its arrays; xarray's and dask's objects, paths, numpy arrays, streams
        and sources are told what to pass instead.
    """
    kind = type(given)
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package == "builtins" else f"{package}.{kind.__qualname__}"
    return TypeError(f"expected a zarr.Array or zarr.AsyncArray, not {name}: {_remedy(given, name)}")


#: What to pass instead, by the names of other packages' classes.
_REMEDIES = {
    "dask.Array": f"a dask array is data: {_OPEN}",
    "numpy.ndarray": "it is in memory already; an array to stream is in a store, zarr.open_array(store)",
    "xarray.DataArray": "pass the zarr array beneath, zarr.open_array(store, path=…)",
    "xarray.Dataset": "pass one zarr array, zarr.open_array(store, path=…), for each variable",
    "xarray.Variable": "pass the zarr array beneath, zarr.open_array(store, path=…)",
}


def _remedy(given: object, name: str) -> str:
    remedy = _REMEDIES.get(name, _OPEN)
    if isinstance(given, Group):
        listed = ", ".join(f"group[{array!r}]" for array in sorted(given.array_keys())[:8])
        remedy = f"it is a group: pass one of its arrays, {listed}" if listed else "it is a group, and has no arrays"
    elif isinstance(given, StorePath):
        remedy = f"open it with zarr.open_array(store, path={given.path!r})"
    elif isinstance(given, Store):
        remedy = "open an array in it with zarr.open_array(store, path=…)"
    elif isinstance(given, (str, bytes)) or hasattr(given, "__fspath__") or hasattr(given, "storage_options"):
        remedy = f"open it with zarr.open_array({given!r})"
    elif isinstance(given, (list, tuple)) or hasattr(given, "__next__") or name.startswith("zarrstream."):
        remedy = "the array comes first, and a source after it: write_stream(array, source)"
    return remedy


def of_another_loop(error: BaseException) -> str:
    """Return the remedy for an error of a store that belongs to another event loop; nothing for other errors."""
    at: BaseException | None = error
    for _ in range(8):  # causes may go round
        if at is None:
            break
        if "different loop" in str(at) or "different event loop" in str(at):
            return (
                "; the store belongs to the event loop on which it was opened: await the function of the same name in "
                "zarrstream.aio there, or open the array with zarr.open_array"
            )
        at = at.__cause__ or at.__context__
    return ""
