"""What is served over HTTP: one file an API, each a table of endpoints over the same service."""
