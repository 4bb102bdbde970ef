"""Clear tiles of a catalog's scenes as tile shards to train on: nothing is scored, and no store is needed."""
