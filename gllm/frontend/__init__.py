"""The process that clients talk to: HTTP, text, tokens; one engine behind a socket."""
