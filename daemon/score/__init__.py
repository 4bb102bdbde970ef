"""Scoring: one claimed scene from its files to a verdict, incidents and alerts in one transaction."""
