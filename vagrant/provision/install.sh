#!/bin/sh
# Sora into a virtual environment of its own, /opt/sora/.venv; the argument names extras, such as s3-local.
set -eu
EXTRAS=${1:+[$1]}
SOURCE=${SOURCE:-/opt/sora-source}
PREFIX=${PREFIX:-/opt/sora}

mkdir -p "$PREFIX"
test -x "$PREFIX/.venv/bin/python" || python3 -m venv "$PREFIX/.venv"
"$PREFIX/.venv/bin/pip" install --quiet --disable-pip-version-check -c "$SOURCE/constraints.txt" "$SOURCE$EXTRAS"
ln -sf "$PREFIX/.venv/bin/sora-node" "$PREFIX/.venv/bin/sora-admin" /usr/local/bin/
