#!/bin/sh
# The lab's PostgreSQL: a data directory, who may connect, one empty database. Run again, it changes nothing.
#
#   DIR       where it lives                    LISTEN  its address
#   PASSWORD  of the account "sora"             ALLOW   network that may connect
#   PG_BIN    directory of initdb and postgres  PG_USER who it runs as, when this script runs as root
#
# Leaves $DIR/run, which starts the server in the foreground.
set -eu
: "${DIR:?}" "${LISTEN:?}" "${ALLOW:?}" "${PASSWORD:?}"
PG_BIN=${PG_BIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
PG_USER=${PG_USER:-postgres}

as_server() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid "$PG_USER" --regid "$(id -g "$PG_USER")" --clear-groups "$@"; else "$@"; fi
}

mkdir -p "$DIR"
[ "$(id -u)" != 0 ] || chown "$PG_USER" "$DIR"
if [ ! -e "$DIR/data/PG_VERSION" ]; then
  printf '%s\n' "$PASSWORD" >"$DIR/password"
  [ "$(id -u)" != 0 ] || chown "$PG_USER" "$DIR/password"
  chmod 600 "$DIR/password"
  as_server "$PG_BIN/initdb" --pgdata "$DIR/data" --username sora --pwfile "$DIR/password" \
    --auth scram-sha-256 --encoding UTF8 --locale C >"$DIR/initdb.log"
  as_server tee -a "$DIR/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '$LISTEN'
unix_socket_directories = '$DIR'
max_connections = 200
CONF
  printf 'host all sora %s scram-sha-256\n' "$ALLOW" | as_server tee -a "$DIR/data/pg_hba.conf" >/dev/null
  # the one database, made while nobody else can connect
  printf 'CREATE DATABASE sora_mail_db\n' |
    as_server "$PG_BIN/postgres" --single -D "$DIR/data" postgres >"$DIR/create.log" 2>&1
fi

cat >"$DIR/run" <<RUN
#!/bin/sh
set -eu
if [ "\$(id -u)" = 0 ]; then
  exec setpriv --reuid "$PG_USER" --regid "$(id -g "$PG_USER")" --clear-groups "$PG_BIN/postgres" -D "$DIR/data"
fi
exec "$PG_BIN/postgres" -D "$DIR/data"
RUN
chmod 755 "$DIR/run"
