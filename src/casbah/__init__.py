"""Casbah maps buildings from Sentinel-2 with geospatial foundation models."""

__version__ = "1.0.0"
