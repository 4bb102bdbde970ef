"""Tiles to strangeness: scorers on one interface, and the controls that they must beat."""
