"""zarr stores: what speaks zarr for the mappings, and the registry that finds them by URL."""
