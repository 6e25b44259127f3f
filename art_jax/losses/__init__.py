"""Losses over plain arrays."""
