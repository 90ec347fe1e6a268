"""Measurements of dynamo, on this machine alone: see README.md beside this file."""
