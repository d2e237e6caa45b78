"""The radiance field of one expert: parameters, MLPs, and the two ways to evaluate it."""
