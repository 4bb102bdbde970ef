"""Publishing: what an alert is on the wire, and how the outbox reaches every sink."""
