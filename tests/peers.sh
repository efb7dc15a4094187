#!/usr/bin/env bash
# Fetches into build/peers what lagmesh is tested with and measured beside, where the system's own is too old or missing:
#
#   victoria-metrics   one that knows exponential histograms, from a newer Debian suite
#   prometheus         one that takes remote write 2.0, from the same suite; Debian builds it without OTLP
#   prometheus-newest  one that takes OTLP as well, built from Go modules (tests/peers/prometheus-newest; two minutes)
#   otelcol            an OpenTelemetry Collector, built from Go modules (tests/peers/otelcol; a minute)
#
# Packages are unpacked and never installed; apt keeps its lists of that suite there as well. What is there already is left alone.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
usage='usage: tests/peers.sh [PEER...]   (default: all; SUITE=forky for another suite)'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(victoria-metrics prometheus prometheus-newest otelcol)
suite=${SUITE:-forky}
folder=$here/../build/peers
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)
state=$folder/apt
work=$(mktemp -d "$folder/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT

say() { echo "peers: $*"; }
fail() { echo "peers: $*" >&2; return 1; }

# The mirror is the one that this system uses already; before its first update, apt knows none.
mirror() { apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -v -i security | head -n 1; }

apt=(apt-get -qq -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$state/lists"
     -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root)

# Brings the lists of the suite, once for all packages.
lists() {
  [ ! -e "$work/lists" ] || return 0
  local tool from
  for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || { fail "$tool is not in PATH"; return 1; }
  done
  from=$(mirror) || from=
  if [ -z "$from" ]; then
    apt-get update >/dev/null 2>&1 || true
    from=$(mirror) || from=
  fi
  [ -n "$from" ] || { fail 'apt names no mirror; run apt-get update, then try again'; return 1; }
  mkdir -p "$state"/{lists/partial,cache/archives/partial} || return 1
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from $suite main" >"$state/sources.list"
  "${apt[@]}" update || return 1
  touch "$work/lists"
}

# A package of the suite, with its program /usr/bin/NAME.
package() {
  local name=$1
  lists || return 1
  (cd "$work" && "${apt[@]}" download "$name") || return 1
  dpkg-deb -x "$work/$name"_*.deb "$work/$name" || return 1
  "$work/$name/usr/bin/$name" --version >/dev/null 2>&1 || { fail "$name of Debian $suite does not run here"; return 1; }
  dpkg-deb -f "$work/$name"_*.deb Version >"$work/version" || return 1
  keep "$name" "usr/bin/$name"
}

# A program of Go modules: the version is that of a module. Their checksums stand in go.sum.
modules() {
  local name=$1 package=$2 module=$3 tags=${4:-}
  command -v go >/dev/null || { fail 'go is not in PATH: install Go 1.26.7 or later'; return 1; }
  mkdir "$work/$name" || return 1
  if ! (cd "$here/peers/$name" &&
    CGO_ENABLED=0 go build -buildvcs=false -trimpath -tags="$tags" -ldflags='-s -w' -o "$work/$name/$name" "$package" &&
    go list -m -f '{{ .Version }}' "$module" | tr -d v >"$work/version") 2>"$work/log"; then
    tail -n 20 "$work/log" >&2
    return 1
  fi
  "$work/$name/$name" --version >/dev/null || return 1
  keep "$name" "$name"
}

# Puts what was made into its place; only then it counts as there.
keep() {
  local name=$1 program=$2
  rm -rf "${folder:?}/$name"
  mv "$work/$name" "$folder/$name" && mv "$work/version" "$folder/$name/version" && ln -sfn "../$name/$program" "$folder/bin/$name"
}

failed=0
for peer in "${peers[@]}"; do
  case $peer in
  victoria-metrics | prometheus) what="fetching $peer of Debian $suite" how=(package "$peer") ;;
  prometheus-newest)
    what='building a Prometheus from Go modules (two minutes)'
    # Without what finds targets in clouds, which is most of it.
    prometheus=github.com/prometheus/prometheus
    how=(modules "$peer" "$prometheus/cmd/prometheus" "$prometheus" remove_all_sd)
    ;;
  otelcol)
    what='building an OpenTelemetry Collector from Go modules (a minute)'
    how=(modules "$peer" . go.opentelemetry.io/collector/otelcol)
    ;;
  *) echo "$usage" >&2; exit 64 ;;
  esac
  if [ -x "$folder/bin/$peer" ] && [ -e "$folder/$peer/version" ]; then
    say "$peer $(cat "$folder/$peer/version") is here"
    continue
  fi
  say "$what"
  began=$SECONDS
  if "${how[@]}"; then
    say "$peer $(cat "$folder/$peer/version") after $((SECONDS - began)) s"
  else
    fail "goes on without $peer" || failed=1
  fi
done
exit "$failed"
