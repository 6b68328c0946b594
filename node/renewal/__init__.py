"""Certificates that a node gets and renews itself: ``tls.renewing`` in the rest of the node."""
