"""One pass over a source: gathered, encoded, stored, acknowledged."""
