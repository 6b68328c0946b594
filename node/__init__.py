"""One process: the composition root, configuration, commands."""
