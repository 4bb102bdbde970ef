"""Doors to the outside: catalogs, brokers, files, each with a twin in memory."""
