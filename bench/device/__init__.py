"""The parts of `bench.device_check`: torch and triton only, so that they run on a bare GPU machine."""
