"""The vocabulary and the sockets that the processes share. Imports nothing else of gLLM."""
