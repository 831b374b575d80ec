"""One pass over an array: fetched, decoded, delivered."""
