"""Weights and training states in and out of files, without pickle."""
