"""Values and pure maths: schedules, noise schedules, solvers, cache plans, fronts, the schedule file. Numpy only."""
