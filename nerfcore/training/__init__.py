"""Training: optimiser, ray batches, plain joint training and first-order meta-learning."""
