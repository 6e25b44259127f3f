"""Readers: models that say the answers to questions whose passages they read."""
