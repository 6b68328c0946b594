#!/bin/sh
# The lab's S3: rclone over a directory, with one bucket. Run again, it changes nothing.
#
#   DIR      where it lives       LISTEN       its address        BUCKET  the bucket
#   RCLONE   the program          ACCESS_KEY, SECRET_KEY
#
# Leaves $DIR/run, which starts the server in the foreground. It does not fsync: this is for labs.
set -eu
: "${DIR:?}" "${LISTEN:?}" "${BUCKET:?}" "${ACCESS_KEY:?}" "${SECRET_KEY:?}"
RCLONE=${RCLONE:-rclone}

mkdir -p "$DIR/objects/$BUCKET"
umask 077
cat >"$DIR/run" <<RUN
#!/bin/sh
set -eu
# by the environment: everybody can read the arguments of a process
export RCLONE_AUTH_KEY='"$ACCESS_KEY,$SECRET_KEY"' RCLONE_CONFIG=/dev/null
exec "$RCLONE" serve s3 --addr "$LISTEN:9000" --vfs-cache-mode off "$DIR/objects"
RUN
chmod 700 "$DIR/run"
