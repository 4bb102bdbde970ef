"""What a tile costs, stage by stage, on the machine at hand. ``make bench`` or ``python -m tests.benchmarks``."""
