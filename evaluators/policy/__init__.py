"""A diffusion policy that controls a simulated robot arm: the second kind of model that schedules are tuned for."""
