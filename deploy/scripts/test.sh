#!/usr/bin/env bash
# The whole suite with coverage of lines and branches, subprocesses counted: test.sh [pytest arguments]
# The last line printed is pytest's own summary, so that a reader of a long log finds it.
set -uo pipefail
cd "$(dirname "$0")/../.."
bin=.venv/bin
mkdir -p .cache
# One more than there are cores: much of the time a test waits for a process it has started.
workers=$(($(getconf _NPROCESSORS_ONLN) + 1))
log=.cache/pytest.log
"$bin/coverage" erase
"$bin/coverage" run -m pytest -n "${PYTEST_WORKERS:-$workers}" --dist loadscope "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
"$bin/coverage" combine --quiet
"$bin/coverage" report >.cache/coverage.txt
coverage_status=$?
# A whole table only when it says what is missing.
if [ "$coverage_status" -eq 0 ]; then grep '^TOTAL' .cache/coverage.txt; else cat .cache/coverage.txt; fi
printf '\n'
grep -aE '^(=+ )?[0-9]+ (passed|failed|error|skipped|deselected|xfailed)|^=+ .* in [0-9.]+s' "$log" | tail -n 1
[ "$status" -eq 0 ] || exit "$status"
[ "$coverage_status" -eq 0 ] || echo "coverage is below the limit in pyproject.toml (see the table above)" >&2
exit "$coverage_status"
