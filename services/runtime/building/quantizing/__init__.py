"""Graphs in 8 bits: calibrated on a model's own trajectories, checked against f32 on the CPU."""
