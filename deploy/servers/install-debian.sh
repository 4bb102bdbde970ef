#!/usr/bin/env bash
# Installs what the server tests need and this Debian machine lacks: Java and Maven for Kafka, PostgreSQL with PostGIS,
# Prometheus with promtool, and kcat.
# Run as root; safe to run again. Starts no service: the tests start their own servers, on their own ports.
set -euo pipefail

missing=()
command -v java >/dev/null || missing+=(default-jre-headless)
command -v mvn >/dev/null || missing+=(maven)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql-15)
compgen -G '/usr/share/postgresql/*/extension/postgis.control' >/dev/null || missing+=(postgresql-15-postgis-3)
command -v promtool >/dev/null || missing+=(prometheus)
command -v kcat >/dev/null || missing+=(kcat)
if [ "${#missing[@]}" = 0 ]; then
    echo "All servers that the tests need are installed."
    exit 0
fi

# dpkg asks this script before it starts a service; 101 means no. Another's script is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
# Debian's package would make and run a cluster of its own otherwise.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi

echo "Installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}"
