"""Finds the fastest schedules of a diffusion model and applies them to unmodified diffusers pipelines."""
