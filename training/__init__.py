"""Trains, evaluates and exports the models that :mod:`engine` serves. Imports :mod:`engine` only."""
