"""The process that holds the model: plans in, sampled tokens out."""
