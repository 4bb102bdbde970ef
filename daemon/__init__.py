"""The service: watches catalogs, has scenes scored by :mod:`engine`, keeps state and publishes alerts."""
