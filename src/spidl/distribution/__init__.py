"""System-call summaries of whole distributions: many files, many machines, one store."""
