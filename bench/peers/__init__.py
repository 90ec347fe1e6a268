"""Stores that one would use instead of dynamo, each with its driver and how it is started here."""
