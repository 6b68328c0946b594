"""Mail as facts: metadata in PostgreSQL, bodies in an object store. Speaks no protocol."""
