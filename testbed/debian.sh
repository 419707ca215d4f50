#!/usr/bin/env bash
# debian.sh PREFIX SUITE PACKAGE... : server packages of a Debian suite, with all that they need, unpacked
# below PREFIX. Nothing is installed on this machine, whose own suite may be another; root is not needed.
#
#   testbed/debian.sh .servers/timescaledb trixie postgresql-17 postgresql-17-timescaledb
#
# PREFIX/bin then holds the programs: those of PostgreSQL run by the loader and the libraries of their suite,
# others, where the packages bring no PostgreSQL, as they are.
# Made beside and renamed: a PREFIX that is there is complete. Packages are checked by Debian's keys.
set -euo pipefail

fail() { echo "debian.sh: $1" >&2; exit 2; }

[ $# -ge 3 ] || fail "give PREFIX SUITE PACKAGE..."
prefix=$(realpath -m "$1") suite=$2
shift 2
[ ! -e "$prefix/bin" ] || exit 0
for tool in apt-get dpkg dpkg-deb flock; do
  command -v $tool >/dev/null || fail "there is no $tool here; use a Debian, or give a server by its URL."
done

keys=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keys ] || fail "Debian's keys are missing: install debian-archive-keyring."
mirror=$(awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) {print $i; exit}}' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
arch=$(dpkg --print-architecture)

mkdir -p "$(dirname "$prefix")"
exec 9>"$prefix.lock"
flock 9
[ ! -e "$prefix/bin" ] || exit 0
work=$(mktemp -d "$prefix.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$work"/{lists/partial,cache/archives/partial} "$root"
: >"$work/status"
echo "deb [signed-by=$keys arch=$arch] ${mirror:-http://deb.debian.org/debian} $suite main" >"$work/sources"
apt=(
  -qq -o Dir::Etc::sourcelist="$work/sources" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::Etc::preferencesparts=/dev/null -o Dir::State="$work" -o Dir::State::lists="$work/lists"
  -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=
  -o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3 -o Debug::NoLocking=true
)
apt-get "${apt[@]}" update
apt-get "${apt[@]}" --yes --download-only install "$@" >/dev/null
for package in "$work"/cache/archives/*.deb; do
  dpkg-deb --extract "$package" "$root"
done

programs=$(echo "$root"/usr/lib/postgresql/*/bin)
[ -x "$programs/postgres" ] || programs=$root/usr/bin
libraries=$(dirname "$(find "$root/usr/lib" -name libpq.so.5 | head -1)")
loader=$(cd "$root" && find . -name 'ld-linux*.so.*' -path '*lib/*' | head -1)
for program in "$root"/usr/lib/postgresql/*/bin/*; do
  [ -f "$program" ] || continue
  case $(head -c 4 "$program" | tr -d '\0') in
    $'\x7fELF')
      mv "$program" "$programs/.$(basename "$program")"
      cat >"$program" <<END
#!/bin/sh
here=\$(dirname "\$(readlink -f "\$0")")
root=\$here/../../../../..
exec "\$root/$loader" --argv0 "\$here/$(basename "$program")" \\
  --library-path "\$root/${libraries#"$root"/}:\$root/lib/$(basename "$libraries")" "\$here/.$(basename "$program")" "\$@"
END
      chmod 755 "$program"
      ;;
  esac
done
rm -rf "$root"/usr/share/{doc,man,locale,lintian,info} "$root"/usr/lib/postgresql/*/lib/bitcode "$root"/{etc,var}
rm -rf "$root/bin"
ln -s "${programs#"$root"/}" "$root/bin"
[ ! -e "$root/bin/postgres" ] || "$root/bin/postgres" --version >/dev/null || fail "the unpacked PostgreSQL does not run."
chmod 755 "$root"
mv -T "$root" "$prefix" 2>/dev/null || [ -e "$prefix/bin" ] || fail "$prefix is in the way."
