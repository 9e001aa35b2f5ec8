#!/bin/sh
# Starts a sentinel that watches the broker's servers:   sentinel-start.sh FOLDER
#
# A sentinel keeps its configuration, and what it has learned, in one file that it rewrites. Only the first start makes
# it; each start puts the password of today into it. REDIS_MASTER is the master of the very first start.
#
# It takes commands from whoever reaches its port, so only those who may should: see the network `store`.
set -eu
umask 077

folder=$1
conf=$folder/sentinel.conf
host=${SENTINEL_ANNOUNCE%:*} port=${SENTINEL_ANNOUNCE##*:}

case ${REDIS_REPLICATION_PASSWORD:-} in
    '') echo "sentinel-start: REDIS_REPLICATION_PASSWORD is not set." >&2; exit 1 ;;
    *[!A-Za-z0-9_-]*) echo "sentinel-start: REDIS_REPLICATION_PASSWORD may hold letters, digits, - and _ only." >&2; exit 1 ;;
esac

if [ ! -f "$conf" ]; then
    # Two of three agree that a server is down. Five seconds: longer than a fork or a busy disk holds up a server.
    cat > "$conf" <<EOF
port $port
dir $folder
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $host
sentinel announce-port $port
sentinel monitor broker ${REDIS_MASTER%:*} ${REDIS_MASTER##*:} 2
sentinel auth-user broker broker-replication
sentinel auth-pass broker $REDIS_REPLICATION_PASSWORD
sentinel down-after-milliseconds broker ${SENTINEL_DOWN_AFTER_MS:-5000}
sentinel failover-timeout broker 20000
sentinel parallel-syncs broker 1
EOF
fi
sed "s/^sentinel auth-pass broker .*/sentinel auth-pass broker $REDIS_REPLICATION_PASSWORD/" "$conf" > "$conf.new"
mv "$conf.new" "$conf"

unset REDIS_REPLICATION_PASSWORD
exec "${REDIS_SERVER:-redis-server}" "$conf" --sentinel
