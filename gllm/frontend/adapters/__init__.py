"""Other shapes of a chat, translated: their bodies to that of a chat, deltas of answers to their events."""
