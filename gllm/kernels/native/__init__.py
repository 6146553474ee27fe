"""The operators for a CPU in C: compiled for the machine at hand when they are first used, then kept."""
