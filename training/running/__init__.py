"""What every training run shares, and what it leaves behind."""
