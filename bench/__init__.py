"""One benchmark per claim; each prints a table or JSON. See bench/README.md."""
