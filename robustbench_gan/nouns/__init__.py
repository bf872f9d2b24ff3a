"""The words that all else speaks: outcome, budget, seeds, spec, record."""
