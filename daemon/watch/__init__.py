"""Watching catalogs: STAC Items to scenes in the store."""
