"""The wire: protocol machines and the sessions that run them."""
