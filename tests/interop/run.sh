#!/usr/bin/env bash
# Runs the Python, JavaScript and Go publishers against a Forebay whose provider is simulated.
set -euo pipefail
cd "$(dirname "$0")/../.."

forebay=${FOREBAY:-target/release/forebay}
here=tests/interop
work=$here/work
run=$work/run

fail() { echo "interop: $*" >&2; exit 1; }

for tool in "$forebay" python3 node npm go; do
  command -v "$tool" >/dev/null || fail "$tool is missing"
done

# Signals end in `exit`, so that this runs whatever happens.
# Forebay stops its NATS server itself, which is why it gets time before it is killed with all that it started.
pids=""
stop() {
  trap '' INT TERM
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  for _ in {1..100}; do
    [ -n "$(jobs -pr)" ] || return 0
    sleep 0.1
  done
  for pid in $pids; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  fail "had to kill what did not stop within 10 s"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background and, because of `set -m`, in a process group of its own.
# An interrupt from the keyboard then reaches only this script, and `stop` can reach the whole group.
start() {
  set -m
  "${@:2}" >"$run/$1.log" 2>&1 </dev/null &
  set +m
  pids="$pids $!"
}

# wait_for NAME REGEX: until the log has such a line; if it never does, show the logs and fail.
wait_for() {
  for _ in {1..300}; do
    if grep -Eq "$2" "$run/$1.log"; then return; fi
    kill -0 $! 2>/dev/null || break
    sleep 0.1
  done
  cat "$run"/*.log >&2
  fail "$1 wrote no line with '$2'"
}

# The libraries stay in work/ between runs; the state of Forebay is new each time, as the job ids are always the same.
rm -rf "$run"
mkdir -p "$run" "$work/javascript"
[ -x "$work/python/bin/pip" ] || python3 -m venv "$work/python"
"$work/python/bin/pip" install --quiet --disable-pip-version-check --requirement $here/python/requirements.txt
# Node looks for modules beside the program, so the program goes where they are.
cp $here/javascript/{package.json,package-lock.json,.npmrc,publish.mjs} "$work/javascript/"
(cd "$work/javascript" && npm ci --loglevel=error --no-audit --no-fund --prefer-offline >/dev/null)
(cd $here/go && go build -o ../work/publish-go .)

export SIM_KEY=sk-one
start simulate "$forebay" simulate --listen 127.0.0.1:0 --account name=one,key=$SIM_KEY,limit=600/1m
wait_for simulate '^listening on http'
provider=$(sed -n 's/^listening on //p' "$run/simulate.log")

cat >"$run/forebay.toml" <<TOML
[nats]
listen = "127.0.0.1:0"
[data]
dir = "$run/data"
[account.simulated]
provider = "openai"
base_url = "$provider"
keys = [{ name = "one", env = "SIM_KEY" }]
limits = [{ requests = 600, per = "1m" }]
[pool.chat]
targets = [{ account = "simulated", model = "gpt-4o-mini" }]
TOML
start serve "$forebay" serve --config "$run/forebay.toml"
wait_for serve '(^|[^a-z])ready'
NATS_URL=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$run/data/forebay.json")
export NATS_URL

passed=0 failed=0
try() {
  echo "== $1"
  if "${@:2}"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}
try Python "$work/python/bin/python" $here/python/publish.py
try JavaScript node "$work/javascript/publish.mjs"
try Go "$work/publish-go"

[ $failed = 0 ] || tail -n 50 "$run/serve.log" >&2
echo "$passed passed, $failed failed"
[ $failed = 0 ]
