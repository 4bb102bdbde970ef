"""Training of EDM denoisers."""
