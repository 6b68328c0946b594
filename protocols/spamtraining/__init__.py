"""What users move into and out of Junk, told to a spam filter over HTTP."""
