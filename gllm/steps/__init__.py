"""What a step computes and how long that takes, for all that puts a model in the place of a worker."""
