#!/bin/sh
# One node of the lab: its certificate and its config.toml. Run again, it writes the configuration anew.
#
#   DIR         where it lives                NODE_ID       its name
#   ADDRESS     its address                   PEERS         addresses of the others, separated by spaces
#   DATABASE    address of PostgreSQL         DB_PASSWORD   of the account "sora"
#   OBJECTS     address of the S3 server      BUCKET, ACCESS_KEY, SECRET_KEY
#   SECRET      the cluster's secret          SORA          the sora-node program
#   DATA        directory for what it keeps   EXTRA         lines of configuration for the top of the file
#
# Leaves $DIR/run, which starts the node in the foreground.
set -eu
: "${DIR:?}" "${NODE_ID:?}" "${ADDRESS:?}" "${DATABASE:?}" "${DB_PASSWORD:?}" "${OBJECTS:?}" "${SECRET:?}"
: "${BUCKET:?}" "${ACCESS_KEY:?}" "${SECRET_KEY:?}"
PEERS=${PEERS:-}
SORA=${SORA:-/opt/sora/.venv/bin/sora-node}
DATA=${DATA:-$DIR/data}
EXTRA=${EXTRA:-}

umask 077
mkdir -p "$DIR" "$DATA"
if [ ! -e "$DIR/key.pem" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=$NODE_ID" \
    -addext "subjectAltName=DNS:$NODE_ID,DNS:mail.sora.lab,IP:$ADDRESS" \
    -keyout "$DIR/key.new" -out "$DIR/cert.pem" 2>"$DIR/openssl.log"
  mv "$DIR/key.new" "$DIR/key.pem"
fi

quoted_peers=""
for peer in $PEERS; do quoted_peers="$quoted_peers\"$peer:7946\", "; done

cat >"$DIR/config.toml" <<CONF
hostname = "$NODE_ID"
$EXTRA

[logging]
level = "info"

[database.write]
hosts = ["$DATABASE"]
port = 5432
user = "sora"
password = "$DB_PASSWORD"
name = "sora_mail_db"

[s3]
endpoint = "$OBJECTS:9000"
disable_tls = true
bucket = "$BUCKET"
access_key = "$ACCESS_KEY"
secret_key = "$SECRET_KEY"

[local_cache]
path = "$DATA/cache"

[uploader]
path = "$DATA/staging"

[tls]
enabled = true
provider = "file"
cert_file = "$DIR/cert.pem"
key_file = "$DIR/key.pem"

[cluster]
enabled = true
addr = "$ADDRESS:7946"
node_id = "$NODE_ID"
peers = [$quoted_peers]
secret_key = "$SECRET"

[[servers]]
type = "imap"
name = "imap"
addr = "$ADDRESS:143"
tls = true
tls_use_starttls = true

[[servers]]
type = "imap"
name = "imaps"
addr = "$ADDRESS:993"
tls = true

[[servers]]
type = "pop3"
name = "pop3s"
addr = "$ADDRESS:995"
tls = true

[[servers]]
type = "lmtp"
name = "lmtp"
addr = "$ADDRESS:24"

[[servers]]
type = "metrics"
allowed_hosts = ["10.10.10.0/24"]
name = "metrics"
addr = "$ADDRESS:9090"
CONF
"$SORA" config check --config "$DIR/config.toml"

cat >"$DIR/run" <<RUN
#!/bin/sh
exec "$SORA" run --config "$DIR/config.toml" "\$@"
RUN
chmod 755 "$DIR/run"
