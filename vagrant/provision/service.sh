#!/bin/sh
# A systemd service, by name, that runs a program for ever.
set -eu
NAME=$1
PROGRAM=$2
cat >"/etc/systemd/system/$NAME.service" <<UNIT
[Unit]
Description=Sora lab: $NAME
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=$PROGRAM
ExecReload=/bin/kill -HUP \$MAINPID
Restart=on-failure
RestartSec=2
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet "$NAME"
systemctl restart "$NAME"
