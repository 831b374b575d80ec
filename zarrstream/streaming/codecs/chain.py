"""A chain of codecs, run on one chunk in the calling thread; through zarr's pipeline where one has to be awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from zarr.abc.codec import SupportsSyncCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.core.sync import sync

from zarrstream.streaming.codecs.direct import PlainChain, plain_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from zarr.abc.codec import CodecPipeline
    from zarr.core.array_spec import ArraySpec

    NDArray: TypeAlias = npt.NDArray[Any]


class Chain:
    """A chain of codecs, run on one chunk after the other.

    Parameters
    ----------
    pipeline : BatchedCodecPipeline
        zarr's pipeline, evolved to the array.
    spec : ArraySpec
        What one chunk is: shape, data type, fill value, order.
    elide : bool
        Whether a chunk that equals the fill value encodes to None, as the array's configuration says.
    """

    def __init__(self, pipeline: Any, spec: ArraySpec, *, elide: bool = True) -> None:
        self._pipeline: CodecPipeline = pipeline
        self._spec = spec
        self._elide = elide and not spec.config.write_empty_chunks
        self.synchronous = isinstance(pipeline, BatchedCodecPipeline) and all(map(_runs_sync, _codecs_of(pipeline)))
        self.plain: PlainChain | None = None
        if self.synchronous or _is_format_2(pipeline):
            self.plain = plain_chain(list(pipeline), spec)
        if self.synchronous:
            self._arrays, self._specs, self._last_spec = _resolved(pipeline, spec)

    def decode(self, raw: Any) -> NDArray:
        """Turn a chunk's bytes into its values."""
        if self.plain is not None:
            return self.plain.decode(raw)
        buffer = self._spec.prototype.buffer.from_bytes(raw)
        if not self.synchronous:
            [decoded] = sync(self._decode_async(buffer))
            return np.asarray(decoded.as_numpy_array())
        pipeline: Any = self._pipeline
        for codec in reversed(pipeline.bytes_bytes_codecs):
            buffer = codec._decode_sync(buffer, self._last_spec)
        values = pipeline.array_bytes_codec._decode_sync(buffer, self._last_spec)
        for codec, spec in zip(reversed(self._arrays), reversed(self._specs), strict=True):
            values = codec._decode_sync(values, spec)
        return np.asarray(values.as_numpy_array())

    def encode(self, data: NDArray) -> Any | None:
        """Turn a chunk's values into bytes, or None where it is to be elided."""
        if self._is_elided(data):
            return None
        if self.plain is not None:
            return self.plain.encode(data)
        values: Any = self._spec.prototype.nd_buffer.from_numpy_array(data)
        if not self.synchronous:
            [encoded] = sync(self._encode_async(values))
            return None if encoded is None else encoded.as_buffer_like()
        pipeline: Any = self._pipeline
        for codec, spec in zip(self._arrays, self._specs, strict=True):
            values = codec._encode_sync(values, spec)
        buffer = pipeline.array_bytes_codec._encode_sync(values, self._last_spec)
        for codec in pipeline.bytes_bytes_codecs:
            if buffer is None:
                return None
            buffer = codec._encode_sync(buffer, self._last_spec)
        return None if buffer is None else buffer.as_buffer_like()

    def encode_all(self, run: list[NDArray]) -> list[Any] | None:
        """Turn several chunks' values into bytes at once, as `encode` does; None where that gains nothing."""
        if self.plain is None or not self.plain.encodes_together:
            return None
        kept = [data for data in run if not self._is_elided(data)]
        packed = iter(self.plain.encode_all(kept))
        if len(kept) == len(run):
            return list(packed)
        return [None if self._is_elided(data) else next(packed) for data in run]

    def _is_elided(self, data: NDArray) -> bool:
        return (
            self._elide
            and self._may_be_empty(data)
            and self.elides(self._spec.prototype.nd_buffer.from_numpy_array(data))
        )

    def elides(self, values: Any) -> bool:
        """Whether a chunk equals the fill value and the array's configuration leaves such chunks out."""
        fill = self._spec.fill_value
        return self._elide and bool(values.all_equal(self._spec.dtype.default_scalar() if fill is None else fill))

    def _may_be_empty(self, data: NDArray) -> bool:
        """Whether the first value leaves it open that all equal the fill value: the full comparison costs a pass."""
        fill = self._spec.fill_value
        if fill is None or data.dtype.kind not in "biufmM" or not data.size:
            return True
        first = data[(0,) * data.ndim]
        return bool(first == fill) or bool(first != first and fill != fill)  # noqa: PLR0124  # that is how NaN is told

    async def _decode_async(self, buffer: Any) -> list[Any]:
        return list(await self._pipeline.decode([(buffer, self._spec)]))

    async def _encode_async(self, values: Any) -> list[Any]:
        return list(await self._pipeline.encode([(values, self._spec)]))


def _is_format_2(pipeline: Any) -> bool:
    # zarr 3.1.6 has no synchronous form of format 2's codec, but the plain chains need none.
    return isinstance(pipeline, BatchedCodecPipeline) and type(pipeline.array_bytes_codec) is V2Codec


def overridden_apart(thing: object, awaited: str, synchronous: str) -> bool:
    """Whether a class changed the awaited form of a method and inherits the synchronous one, which then bypasses it."""
    if awaited in vars(thing) if hasattr(thing, "__dict__") else False:
        return True
    for cls in type(thing).__mro__:
        if synchronous in vars(cls):
            return False
        if awaited in vars(cls):
            return True
    return True


def _runs_sync(codec: Any) -> bool:
    # A subclass that overrides only _decode_single would be bypassed by the inherited _decode_sync.
    return (
        isinstance(codec, SupportsSyncCodec)
        and getattr(codec, "_sync_capable", True)
        and not overridden_apart(codec, "_decode_single", "_decode_sync")
        and not overridden_apart(codec, "_encode_single", "_encode_sync")
    )


def _codecs_of(pipeline: Any) -> list[Any]:
    return [*pipeline.array_array_codecs, *pipeline.bytes_bytes_codecs, pipeline.array_bytes_codec]


def _resolved(pipeline: Any, spec: ArraySpec) -> tuple[Sequence[Any], list[ArraySpec], ArraySpec]:
    """Thread the spec through the array-to-array codecs: each sees what the one before it makes."""
    specs = []
    for codec in pipeline.array_array_codecs:
        specs.append(spec)
        spec = codec.resolve_metadata(spec)
    return pipeline.array_array_codecs, specs, spec


def evolved(codecs: Any, spec: ArraySpec) -> Any:
    """Fit a chain to what it will see, codec by codec; zarr 3.1.6's own way loses the codecs of an inner chain."""
    fitted = []
    for codec in codecs:
        fitted.append(codec.evolve_from_array_spec(array_spec=spec))
        spec = fitted[-1].resolve_metadata(spec)
    return BatchedCodecPipeline.from_codecs(fitted)
