"""Fitting of the flood model, the one part of the detector that sees labels."""
