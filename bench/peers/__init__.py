"""The engines that `bench.compare` runs, one module each, and what they are given.

Every module `run_*` runs in its engine's own environment, from the root of the checkout: only the standard
library, this package and the engine itself may be imported there.
"""
