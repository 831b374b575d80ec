"""One chunk and its bytes: the only room that knows zarr's codecs from inside."""
