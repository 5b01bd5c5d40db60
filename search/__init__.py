"""Who decides what to try next: searchers, budget, the study loop."""
