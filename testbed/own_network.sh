#!/bin/sh
# own_network.sh COMMAND... : runs a command that makes hosts with networks of their own (hosts.py). Root may;
# anybody else does it in a user namespace, where the system lets him.
set -eu
[ "$(id -u)" -ne 0 ] || exec "$@"
own="unshare --user --map-current-user --keep-caps --net"
$own true 2>/dev/null || {
  echo "Hosts with networks of their own can only be made as root, or where user namespaces are allowed" \
    "(kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)." >&2
  exit 2
}
# shellcheck disable=SC2016
exec $own sh -c 'PATH=$PATH:/usr/sbin:/sbin ip link set lo up && exec "$@"' sh "$@"
