"""Pixels in, numbers out: models, rasters, scores and detections. No network service, no database, no daemon."""
