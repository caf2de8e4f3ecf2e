#!/usr/bin/env bash
# Embeds COUNT real texts through Forebay with a local model, and checks every vector.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
forebay=${FOREBAY:-$here/../../target/release/forebay}
count=${COUNT:-2000}
work=$here/work
python=$here/.venv/bin/python

if ! command -v "$forebay" >/dev/null; then
  echo "no forebay at $forebay: build it with 'cargo build --release', or set FOREBAY" >&2
  exit 1
fi

if [[ ! -x $python ]]; then
  "${PYTHON:-python3}" -m venv "$here/.venv"
fi
"$python" -m pip install --quiet --disable-pip-version-check --no-deps \
  -r "$here/requirements.txt"

rm -rf "$work"
mkdir "$work"
"$python" "$here/make_batch.py" --count "$count" --output "$work/texts.jsonl"

export LOCAL_KEY_A=local-key-a LOCAL_KEY_B=local-key-b
"$python" "$here/server.py" --listen 127.0.0.1:9100 --record "$work/record.jsonl" \
  --account "first:$LOCAL_KEY_A:20" --account "second:$LOCAL_KEY_B:20" >"$work/server.log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT

for _ in {1..300}; do
  grep -qs '^listening on ' "$work/server.log" && break
  kill -0 "$server" 2>/dev/null || break
  sleep 0.1
done
if ! grep '^listening on ' "$work/server.log"; then
  echo "the server did not start" >&2
  exit 1
fi

SECONDS=0
# Its data directory goes into the work folder, so that every run calls the model anew.
(cd "$work" && "$forebay" run texts.jsonl --output out.jsonl --config "$here/forebay.toml")
echo "forebay took about $SECONDS s"

"$python" "$here/check.py" --input "$work/texts.jsonl" --output "$work/out.jsonl" \
  --record "$work/record.jsonl"
