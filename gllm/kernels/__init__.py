"""The operators of the forward pass: one signature each, several implementations. Imports nothing of gLLM."""
