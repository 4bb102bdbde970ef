"""How well scores tell what they should tell."""
