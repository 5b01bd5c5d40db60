"""Everything that runs a network: models, the runtime that applies a schedule, metrics, the worker."""
