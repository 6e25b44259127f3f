"""Passages and questions: reading, splitting, tokenising, storing, batching."""
