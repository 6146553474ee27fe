"""The process that decides: which rows of which sequences the worker computes next."""
