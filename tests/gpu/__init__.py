"""What only a GPU can tell: tests, and `make gpu-check`, which runs them, builds plans, measures and reports."""
