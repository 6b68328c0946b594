"""The Sieve language (RFC 5228) as pure code: ``compiling.compile``, ``interpreter.evaluate``."""
