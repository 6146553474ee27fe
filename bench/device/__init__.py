"""The parts of `bench.device_check`: no library that a bare GPU machine lacks."""
