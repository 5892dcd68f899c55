#!/bin/sh
# Installs from Debian the programs that tests/system and web/tests use. Does nothing if they are
# installed.
set -eu

packages="chromium curl golang-go haproxy nginx prometheus strace"

missing=
for package in $packages; do
    case "$(dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null)" in
        "install ok installed") ;;
        *) missing="$missing $package" ;;
    esac
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
    echo "setup-system-tests: needs$missing: expected root, to install them with apt-get, found $(id -un)" >&2
    exit 1
fi
echo "installing$missing" >&2
# The tests start these programs themselves; as services they would occupy ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
