"""The version, readable without importing anything."""

__version__ = "1.0.0b1"
