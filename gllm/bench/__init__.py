"""The commands `gllm bench`: load and measurements for gLLM and for other engines."""
