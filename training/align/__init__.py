"""Training of the X-STARS encoder."""
