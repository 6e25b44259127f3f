"""Answer matching, measures, run files and the SeqIO evaluator."""
