"""A simulated place for the demo: a river valley, its passes as real COGs in a real STAC catalog, and pictures.

Nothing here is an observation. All of it is computed from a seed, and every Item says so.
"""
