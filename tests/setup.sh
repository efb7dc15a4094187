#!/usr/bin/env bash
# Installs what is missing for `demo`, `testbed`, `bench` or `test` from the system's packages; says what it does, and does nothing where
# nothing is missing. Without root it prints the exact command and stops. What only compares (`bench`), or stands in the way of one
# scenario (pgbouncer) or test (victoria-metrics), may be missing in the end.
set -euo pipefail

goal=${1:?usage: tests/setup.sh demo|testbed|bench|test}
testbed=(gcc libc6-dev postgresql iproute2 iputils-ping)
optional=()
case $goal in
bench)
  wanted=("${testbed[@]}")
  optional=(fping prometheus-smokeping-prober)
  ;;
demo) wanted=("${testbed[@]}") ;;
testbed)
  wanted=("${testbed[@]}")
  optional=(pgbouncer)
  ;;
test)
  wanted=("${testbed[@]}" prometheus prometheus-alertmanager chromium python3-venv)
  optional=(pgbouncer victoria-metrics)
  ;;
*) echo "setup: unknown goal $goal" >&2; exit 64 ;;
esac

installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is no Debian; install by hand: a C compiler, PostgreSQL 13 or later, and for tests promtool, amtool and chromium" >&2
  exit 1
fi
if ! command -v cargo >/dev/null; then
  echo "setup: no Rust toolchain: cargo is not in PATH; install Rust 1.89 or later first (rustup, or your own packages)" >&2
  exit 1
fi

missing=()
for package in "${wanted[@]}"; do installed "$package" || missing+=("$package"); done

# What may be missing is taken if it is to be had; a machine that has never updated its lists does so first.
# (`grep -q` would end before apt-cache has, which pipefail calls a failure.)
candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep 'Candidate: [^(]' >/dev/null; }
for package in ${optional[@]+"${optional[@]}"}; do
  if installed "$package"; then continue; fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: goes on without $package; to have it: sudo apt-get install -y --no-install-recommends $package"
  elif candidate "$package" || { apt-get update >/dev/null 2>&1 && candidate "$package"; }; then
    missing+=("$package")
  else
    echo "setup: goes on without $package, which this system's packages do not have"
  fi
done

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: missing packages; run this once, then try again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${missing[*]}"
  # The packages are wanted for their programs only: no cluster of theirs is created and no service of theirs is started.
  quiet=()
  undo() { [ ${#quiet[@]} -eq 0 ] || rm -f "${quiet[@]}"; }
  trap undo EXIT
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    quiet+=(/usr/sbin/policy-rc.d)
  fi
  if ! installed postgresql-common; then
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/lagmesh.conf
    quiet+=(/etc/postgresql-common/createcluster.d/lagmesh.conf)
  fi
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "setup: apt-get failed; the whole output is in $log" >&2
    exit 1
  fi
  rm -f "$log"
fi

if [ "$goal" = test ] && ! cargo deny --version >/dev/null 2>&1; then
  echo "setup: installing cargo-deny (a few minutes)"
  log=$(mktemp)
  if ! cargo install --quiet --locked --no-default-features cargo-deny >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
  fi
  rm -f "$log"
fi

# The OpenTelemetry SDK of another language, as a client. Where it cannot be had, the test with it is skipped by name.
otel=$(dirname "$0")/../build/tools/otel
if [ "$goal" = test ] && ! cmp -s "$(dirname "$0")/otel/requirements.txt" "$otel/requirements.txt"; then
  echo "setup: installing the OpenTelemetry SDK for Python into build/tools/otel"
  log=$(mktemp)
  rm -rf "$otel"
  if { /usr/bin/python3 -m venv "$otel" && "$otel/bin/pip" install --quiet --no-deps -r "$(dirname "$0")/otel/requirements.txt"; } >"$log" 2>&1; then
    cp "$(dirname "$0")/otel/requirements.txt" "$otel/"
    rm -f "$log"
  else
    tail -n 5 "$log" >&2
    rm -rf "$otel"
    echo "setup: goes on without the OpenTelemetry SDK for Python; the whole output is in $log"
  fi
fi

# Another implementation of STAMP, to measure against. Where it cannot be had, the tests against it are skipped by name.
tools=$(dirname "$0")/../build/tools
if [ "$goal" = test ] && [ ! -x "$tools/bin/stamp-suite" ]; then
  echo "setup: installing stamp-suite into build/tools (a few minutes)"
  log=$(mktemp)
  if cargo install --quiet --locked stamp-suite --version 1.0.0 --root "$tools" >"$log" 2>&1; then
    rm -f "$log"
  else
    tail -n 5 "$log" >&2
    echo "setup: goes on without stamp-suite; the whole output is in $log"
  fi
fi
echo "setup: everything for '$goal' is here"
