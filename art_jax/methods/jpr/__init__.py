"""Passages ranked together: JPR, its one-step case IndepPR, and a pointwise baseline.

Source: Min et al., arXiv:2104.08445, of whose code nothing was released; what the paper
leaves open is an option with its default in the docstring.
"""
