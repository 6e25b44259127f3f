"""Flax modules: encoders and the teacher. Layers only, no files, no training."""
