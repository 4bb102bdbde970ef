"""Imagery to train and judge on, as arrays."""
