"""From finished runs to the bundle that the daemon serves."""
