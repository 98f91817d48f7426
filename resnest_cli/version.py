"""The version of this package, which is written into what it writes."""

__version__ = "0.2.0"
