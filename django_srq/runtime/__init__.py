"""The process and the interpreter in which we run: their identity, clock, awaitable results and interruptions."""
