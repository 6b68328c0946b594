"""What was issued, and what it took, kept in a bucket that all nodes share."""
