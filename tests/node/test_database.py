"""The configuration's database section as the database layer is told it."""

from __future__ import annotations

from dataclasses import replace

from node.config import Config, Database, Endpoint, Secret
from node.database import settings_from


def config(**write: object) -> Config:
    endpoint = replace(Endpoint(), **write)  # type: ignore[arg-type]
    return replace(Config(), database=replace(Database(), write=endpoint))


def test_every_field_arrives() -> None:
    settings = settings_from(
        replace(
            Config(),
            database=Database(
                query_timeout_s=1.0,
                search_timeout_s=2.0,
                write_timeout_s=3.0,
                lock_timeout_s=4.0,
                write=Endpoint(
                    hosts=("db1:5433", "db2", "/run/postgresql", "[2001:db8::1]:5434"),
                    port=5555,
                    user="mail",
                    password=Secret("s3cret"),
                    name="sora",
                    tls=True,
                    max_connections=40,
                    min_connections=4,
                    max_conn_lifetime_s=100.0,
                    max_conn_idle_time_s=10.0,
                    query_timeout_s=5.0,
                ),
                read=Endpoint(hosts=("replica",), max_connections=7),
            ),
        )
    )
    write = settings.write
    assert write.hosts == (("db1", 5433), ("db2", 5555), ("/run/postgresql", 5555), ("2001:db8::1", 5434))
    assert (write.user, write.password, write.database, write.tls) == ("mail", "s3cret", "sora", True)
    assert (write.max_connections, write.min_connections) == (40, 4)
    assert (write.max_lifetime_s, write.max_idle_s, write.query_timeout_s) == (100.0, 10.0, 5.0)
    assert settings.read is not None
    assert settings.read.hosts == (("replica", 5432),)
    assert settings.read.max_connections == 7
    assert settings.query_timeout_s == 1.0
    assert settings.search_timeout_s == 2.0
    assert settings.write_timeout_s == 3.0
    assert settings.lock_timeout_s == 4.0


def test_processes_share_the_connections() -> None:
    settings = settings_from(config(max_connections=50, min_connections=10), processes=4)
    assert (settings.write.max_connections, settings.write.min_connections) == (12, 2)
    assert settings.read is None


def test_every_process_gets_a_few_connections() -> None:
    settings = settings_from(config(max_connections=4, min_connections=4), processes=16)
    assert (settings.write.max_connections, settings.write.min_connections) == (2, 0)


def test_the_password_does_not_show() -> None:
    assert "s3cret" not in repr(settings_from(config(password=Secret("s3cret"))))
