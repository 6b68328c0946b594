"""From the configuration's database section to what the database layer must be told."""

from __future__ import annotations

from storage.postgres.settings import DatabaseSettings, EndpointSettings

from .config import Config, Endpoint
from .config import Database as DatabaseSection

LEAST_CONNECTIONS = 2  # of one process: a long read must not keep its writes waiting


def settings_from(config: Config, *, processes: int = 1) -> DatabaseSettings:
    """What each of ``processes`` processes of the node is told; they share the allowed connections."""
    database = config.database
    return DatabaseSettings(
        write=_endpoint(database, database.write, processes),
        read=None if database.read is None else _endpoint(database, database.read, processes),
        query_timeout_s=database.query_timeout_s,
        write_timeout_s=database.write_timeout_s,
        lock_timeout_s=database.lock_timeout_s,
        search_timeout_s=database.search_timeout_s,
    )


def _endpoint(database: DatabaseSection, endpoint: Endpoint, processes: int) -> EndpointSettings:
    most = max(LEAST_CONNECTIONS, endpoint.max_connections // processes)
    return EndpointSettings(
        hosts=tuple((address.host or "localhost", address.port) for address in endpoint.addresses),
        user=endpoint.user,
        password=endpoint.password.reveal(),
        database=endpoint.name,
        tls=endpoint.tls,
        max_connections=most,
        min_connections=min(most, endpoint.min_connections // processes),
        max_lifetime_s=endpoint.max_conn_lifetime_s,
        max_idle_s=endpoint.max_conn_idle_time_s,
        query_timeout_s=endpoint.query_timeout_s,
        log_statements=database.debug,
    )
