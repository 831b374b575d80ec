"""The mock around any mapping or store: faults are injected, and its calls are recorded."""

from zarrstream.faults.mapping import FaultyMapping
from zarrstream.faults.script import Call, Fault, Held
from zarrstream.faults.store import FaultyStore

__all__ = ["Call", "Fault", "FaultyMapping", "FaultyStore", "Held"]
