"""Arrays in, chunks out, and back again: bounded, resumable, and with no particular store in mind."""
