"""Mail to other systems: transports, retries, bounces. Its queue is ``storage.relayqueue``."""
