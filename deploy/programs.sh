#!/bin/sh
# Install the Debian packages of Prometheus and Alertmanager if they are missing and we may; say so.
set -eu
missing=""
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="prometheus"
command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null || missing="${missing:+$missing }prometheus-alertmanager"
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || {
    echo "Prometheus or Alertmanager is missing and this is not Debian or Ubuntu: install them by hand." >&2
    exit 0
}
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "Prometheus or Alertmanager is missing; install them with: sudo apt-get install $missing" >&2
    exit 0
fi
echo "set up, 3 of 3: installing the Debian packages: $missing (no service is started); usually less than a minute"
said=/dev/null
[ ! -t 1 ] || said=/dev/stdout
# policy-rc.d keeps the packages from starting services on the default ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$said"
