"""SeqIO task registrations, one file a benchmark family. No logic."""
