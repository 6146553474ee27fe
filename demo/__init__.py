"""The embedded demo model: its corpus, its training, its measurement and its checkpoint."""
