"""Where chunks lie in arrays and shards: arithmetic alone."""
