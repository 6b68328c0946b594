"""Certificates: files, contexts, swapping. Handshakes: who the client is, before it is answered."""
