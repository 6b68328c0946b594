"""Whether database, staging, cache and object store agree, and what may safely be done where they do not."""
