"""The capacity simulator: the real scheduler's core against a cost model instead of a worker."""
