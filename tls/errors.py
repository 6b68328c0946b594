"""What can be wrong with certificates."""

from __future__ import annotations


class CertificateUnusable(Exception):
    """A certificate and key pair that must not be served; the message says why and names the file."""
