"""Calls of tools in what a model writes: a file for each form, their table, a stream's way through one."""
