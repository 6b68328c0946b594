"""What the console scripts can do, one file per group of commands."""
