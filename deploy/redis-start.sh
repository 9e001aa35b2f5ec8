#!/bin/sh
# Starts Redis with the broker's users:   redis-start.sh REDIS_CONF USERS_ACL [redis-server options]
#
# An ACL file cannot read the environment, and a password in a file of the repository is no secret. So the ACL file is
# made here, at each start, of a template and three passwords; only their SHA-256 is written, to a temporary folder.
set -eu
umask 077

conf=$1 template=$2
shift 2
acl=${TMPDIR:-/tmp}/users.acl

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

# One user a line, without comments: continuation lines are indented.
awk '/^[[:space:]]*(# |#$|$)/ { next }
     /^[[:space:]]/ { sub(/^[[:space:]]+/, " "); printf "%s", $0; next }
     { printf "%s%s", started, $0; started = "\n" }
     END { print "" }' "$template" |
    sed -e "s/@api@/$api/" -e "s/@worker@/$worker/" -e "s/@monitor@/$monitor/" > "$acl"

unset REDIS_API_PASSWORD REDIS_WORKER_PASSWORD REDIS_MONITOR_PASSWORD password
exec "${REDIS_SERVER:-redis-server}" "$conf" --aclfile "$acl" "$@"
