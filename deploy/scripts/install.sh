#!/bin/sh
# Makes .venv hold exactly the locked packages: install.sh base|dev
#
# Finds a usable Python, gets uv when the machine has none, then installs from requirements/*.txt with
# hashes. Works from an empty cache, as root and as any user who may write this folder.
set -eu
cd "$(dirname "$0")/../.."
group=${1:-base}
venv=.venv

say() { printf '==> %s\n' "$*"; }
stop() { printf '\nguardian cannot be installed: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }

[ -w . ] || stop "$(pwd) is not writable for $(id -un 2>/dev/null || id -u)." \
    "Clone the project into a folder of your own and run the command there."

# A development environment stays one: 'make run' after 'make test' keeps the tools.
[ "$group" = base ] && [ -f "$venv/.stamp-dev" ] && group=dev

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }
python=
for candidate in ${GUARDIAN_PYTHON:-} python3 python3.13 python3.12 python3.14 python3.11 python; do
    if usable "$candidate"; then python=$("$candidate" -c 'import sys; print(sys.executable)'); break; fi
done

# uv reads neither pip's settings nor its variables, so pass a configured mirror and certificate on.
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    mirror=${PIP_INDEX_URL:-}
    [ -z "$mirror" ] && [ -n "$python" ] && mirror=$("$python" -m pip config get global.index-url 2>/dev/null || true)
    if [ -n "$mirror" ]; then UV_DEFAULT_INDEX=$mirror; export UV_DEFAULT_INDEX; fi
fi
if [ -z "${SSL_CERT_FILE:-}" ] && [ -n "${PIP_CERT:-}" ]; then SSL_CERT_FILE=$PIP_CERT; export SSL_CERT_FILE; fi
# As pip does, trust the authorities this machine trusts (uv brings its own list otherwise).
for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -s "$store" ]; then UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}; export UV_SYSTEM_CERTS; break; fi
done

# A home that cannot be written (service accounts) must not stop the download cache.
if [ -z "${UV_CACHE_DIR:-}" ] && [ ! -w "${XDG_CACHE_HOME:-${HOME:-/nonexistent}}" ]; then
    UV_CACHE_DIR=$(pwd)/.cache/uv-cache; export UV_CACHE_DIR
fi

if [ -x .cache/uv/bin/uv ]; then uv=.cache/uv/bin/uv
elif command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then uv=uv
else
    [ -n "$python" ] || stop "there is neither Python 3.11-3.14 nor uv on this machine." \
        "Debian or Ubuntu:  apt install python3 python3-venv" \
        "Fedora:            dnf install python3" \
        "macOS:             brew install python@3.13" \
        "A Python in another place: GUARDIAN_PYTHON=/path/to/python3 make run"
    say "Getting uv, the installer (once)"
    rm -rf .cache/uv
    "$python" -m venv .cache/uv >.cache-uv.log 2>&1 || { cat .cache-uv.log >&2; rm -rf .cache/uv .cache-uv.log
        stop "$python has no working 'venv' module." \
            "Debian or Ubuntu:  apt install python3-venv" \
            "Or install uv yourself and run the command again:  pipx install uv"; }
    rm -f .cache-uv.log
    .cache/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt || {
        rm -rf .cache/uv; stop "uv could not be downloaded (see above)." \
            "Check the network, or point pip at a mirror with PIP_INDEX_URL."; }
    uv=.cache/uv/bin/uv
fi

if [ ! -x "$venv/bin/python" ] || ! usable "$venv/bin/python"; then
    say "Creating $venv${python:+ with $python}"
    "$uv" venv --quiet --allow-existing --python "${python:-3.13}" "$venv" || stop "no Python 3.11-3.14 was found or could be fetched." \
        "Debian or Ubuntu:  apt install python3 python3-venv" \
        "macOS:             brew install python@3.13"
fi

set -- -r requirements/base.txt
[ "$group" = dev ] && set -- "$@" -r requirements/dev.txt
count=$(cat requirements/base.txt $([ "$group" = dev ] && echo requirements/dev.txt) | grep -c '^[a-zA-Z0-9].*==' || true)
say "Installing up to $count locked packages ($group); the first time downloads some 100 MB"
VIRTUAL_ENV=$(pwd)/$venv; export VIRTUAL_ENV
quiet=--quiet
[ -t 2 ] && quiet= # a terminal gets uv's progress bars
# shellcheck disable=SC2086 (an empty $quiet must vanish)
"$uv" pip install $quiet --exact --require-hashes "$@" || stop "the locked packages could not be installed (see above)." \
    "Check the network and the free disk space (df -h .), then run the command again."
"$uv" pip install --quiet --no-deps --editable . || stop "the project itself could not be installed (see above)."
touch "$venv/.stamp-base" "$venv/.stamp-$group"
say "Installed"
