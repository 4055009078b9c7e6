"""How a call gets to a server and back, in a thread or in an event loop."""
