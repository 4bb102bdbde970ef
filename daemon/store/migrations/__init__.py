"""How the schema came to be, one step a file; applied by :func:`daemon.store.migration.migrate`."""
