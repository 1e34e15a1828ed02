#!/bin/sh
# Resolves requirements/*.in for every platform and Python at once, with hashes and without addresses,
# so that any mirror can serve them: lock.sh [--upgrade | --upgrade-package name]
set -eu
cd "$(dirname "$0")/../.."
uv=uv
[ -x .cache/uv/bin/uv ] && uv=.cache/uv/bin/uv
for group in uv base dev; do # dev is constrained by base, so it comes last
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" "$@" "requirements/$group.in" -o "requirements/$group.txt"
done
