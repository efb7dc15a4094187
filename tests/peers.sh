#!/usr/bin/env bash
# Fetches a current VictoriaMetrics for `make bench-pipeline` from a Debian suite newer than the system's: the system's own does not know
# exponential histograms. The package is unpacked into build/peers and never installed; apt keeps its lists of that suite there as well.
set -euo pipefail

usage='usage: tests/peers.sh [FOLDER]   (default: build/peers; SUITE=forky for another suite)'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
folder=$(mkdir -p "${1:-$(dirname "$0")/../build/peers}" && cd "${1:-$(dirname "$0")/../build/peers}" && pwd)
suite=${SUITE:-forky}
program=$folder/bin/victoria-metrics

if [ -x "$program" ]; then
  echo "peers: VictoriaMetrics $(cat "$folder/version") is here"
  exit 0
fi
for tool in apt-get dpkg-deb; do
  command -v "$tool" >/dev/null || { echo "peers: $tool is not in PATH: goes on without VictoriaMetrics" >&2; exit 1; }
done
# The mirror is the one that this system uses already; before its first update, apt knows none.
mirror() { apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v -i security | head -n 1; }
from=$(mirror) || from=
if [ -z "$from" ]; then
  apt-get update >/dev/null 2>&1 || true
  from=$(mirror) || from=
fi
[ -n "$from" ] || { echo "peers: apt names no mirror; run apt-get update, then try again" >&2; exit 1; }

state=$folder/apt
mkdir -p "$state"/{lists/partial,cache/archives/partial} "$folder"/{root,bin}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from $suite main" >"$state/sources.list"
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$state/lists"
     -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root)
echo "peers: fetching VictoriaMetrics of Debian $suite"
"${apt[@]}" update
(cd "$state" && "${apt[@]}" download victoria-metrics)
for package in "$state"/victoria-metrics_*.deb; do dpkg-deb -x "$package" "$folder/root"; done
"$folder/root/usr/bin/victoria-metrics" --version >/dev/null 2>&1 || { echo "peers: what was fetched does not run here" >&2; exit 1; }
dpkg-deb -f "$state"/victoria-metrics_*.deb Version >"$folder/version"
ln -sf ../root/usr/bin/victoria-metrics "$program"
echo "peers: VictoriaMetrics $(cat "$folder/version")"
