"""Sums that nobody can take apart: the parties' side of secure aggregation, and numbers as words that add up."""
