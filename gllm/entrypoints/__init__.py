"""Module paths of the first gLLM that still start what they started."""
