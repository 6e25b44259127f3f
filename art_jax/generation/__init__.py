"""Sequences of tokens out of a model that gives the next token's logits."""
