"""Orders at an ACME certificate authority (RFC 8555), on the ``acme`` library in worker threads.

``authority.AcmeAuthority`` is what others use; it imports the library at its first call. Pure: ``problems``,
``resources``, ``renewalinfo``, ``retryafter``, ``chains``.
"""
