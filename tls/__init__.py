"""Certificates: files, contexts, swapping."""
