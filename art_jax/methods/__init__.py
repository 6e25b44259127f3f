"""Papers as thin files: a batch and a loss each."""
