"""A recording under another setting: the real core against a model of the recorded worker's steps."""
