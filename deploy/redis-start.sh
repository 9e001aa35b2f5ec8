#!/bin/sh
# Starts Redis with the broker's users:   redis-start.sh REDIS_CONF USERS_ACL [redis-server options]
#
# Where there are sentinels (REDIS_SENTINELS, as in a URL), the server begins as a replica of the master that they name; where they name
# none, of REDIS_REPLICA_OF, if that is set. REDIS_ANNOUNCE is what it is called itself, host:port.
#
# An ACL file cannot read the environment, and a password in a file of the repository is no secret. So the ACL file is
# made here, at each start, of a template and four passwords; only their SHA-256 is written, to a temporary folder.
set -eu
umask 077

conf=$1 template=$2
shift 2
acl=${TMPDIR:-/tmp}/users.acl
replication=${TMPDIR:-/tmp}/redis.conf

# Prints the SHA-256 of the password that variable $1 holds.
hash_of() {
    eval "password=\${$1:-}"
    case $password in
        '') echo "redis-start: $1 is not set." >&2; exit 1 ;;
        *[!A-Za-z0-9_-]*) echo "redis-start: $1 may hold letters, digits, - and _ only: it is also part of a URL." >&2; exit 1 ;;
        local-only-*) echo "redis-start: $1 is the well-known default. Fine on your own machine; for anything else see .env.example." >&2 ;;
    esac
    printf %s "$password" | sha256sum | cut -d ' ' -f 1
}

api=$(hash_of REDIS_API_PASSWORD)
worker=$(hash_of REDIS_WORKER_PASSWORD)
monitor=$(hash_of REDIS_MONITOR_PASSWORD)
replica=$(hash_of REDIS_REPLICATION_PASSWORD)

# The master that the first sentinel to answer names, as host:port; nothing without sentinels.
named_master() {
    command -v redis-cli > /dev/null || return 0
    sentinels=${REDIS_SENTINELS:-}
    for sentinel in $(echo "${sentinels%%/*}" | tr , ' '); do
        timeout 2 redis-cli -h "${sentinel%:*}" -p "${sentinel##*:}" sentinel get-master-addr-by-name broker 2> /dev/null |
            awk 'NR == 1 { host = $1 } NR == 2 && $1 ~ /^[0-9]+$/ { print host ":" $1 }'
    done | head -n 1
}

# One user a line, without comments: continuation lines are indented.
awk '/^[[:space:]]*(# |#$|$)/ { next }
     /^[[:space:]]/ { sub(/^[[:space:]]+/, " "); printf "%s", $0; next }
     { printf "%s%s", started, $0; started = "\n" }
     END { print "" }' "$template" |
    sed -e "s/@api@/$api/" -e "s/@worker@/$worker/" -e "s/@monitor@/$monitor/" \
        -e "s/@replication@/$replica/" > "$acl"

# A file that sentinels can have rewritten, and that only this user reads: it holds a password.
master=$(named_master)
master=${master:-${REDIS_REPLICA_OF:-}}
{
    cat "$conf"
    echo "masteruser broker-replication"
    echo "masterauth $REDIS_REPLICATION_PASSWORD"
    if [ -n "${REDIS_ANNOUNCE:-}" ]; then
        echo "replica-announce-ip ${REDIS_ANNOUNCE%:*}"
        echo "replica-announce-port ${REDIS_ANNOUNCE##*:}"
    fi
    if [ -n "$master" ] && [ "$master" != "${REDIS_ANNOUNCE:-}" ]; then
        echo "replicaof ${master%:*} ${master##*:}"
    fi
} > "$replication"

unset REDIS_API_PASSWORD REDIS_WORKER_PASSWORD REDIS_MONITOR_PASSWORD REDIS_REPLICATION_PASSWORD password
exec "${REDIS_SERVER:-redis-server}" "$replication" --aclfile "$acl" "$@"
