"""Structured output: what a client asks for, the grammar that it becomes, and the masks of its tokens.

The frontend owns text, and so it owns grammars: scheduler and worker see bits only.
"""
