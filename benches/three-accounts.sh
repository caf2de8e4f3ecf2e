#!/usr/bin/env bash
# A batch of LINES lines over three accounts of 600, 600 and 300 calls a minute, which the simulated
# provider enforces as 100, 100 and 50 in any trailing 10 s: once straight through, and once with
# `kill -9` at one third and at two thirds. Checks that both give the same bytes, and recounts the record.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
forebay=${FOREBAY:-$root/target/release/forebay}
lines=${LINES:-1000}
work=$(mktemp -d)
provider=
stop() {
  if [[ -n $provider ]]; then kill "$provider" 2>/dev/null || true; wait "$provider" 2>/dev/null || true; fi
  provider=
}
trap 'stop; rm -rf "$work"' EXIT
export ONE_KEY=sk-one TWO_KEY=sk-two THREE_KEY=sk-three

echo "$(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"

python3 - "$lines" >"$work/in.jsonl" <<'PYTHON'
import json, sys
for index in range(int(sys.argv[1])):
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"line {index}"}]}
    print(json.dumps({"custom_id": f"r-{index}", "method": "POST", "url": "/v1/chat/completions", "body": body}))
PYTHON

# prepare NAME: a folder with a provider of its own and a configuration for it.
prepare() {
  mkdir "$work/$1"
  "$forebay" simulate --listen 127.0.0.1:0 --latency 20ms..400ms --record "$work/$1/record.jsonl" \
    --account name=one,key=$ONE_KEY,limit=100/10s --account name=two,key=$TWO_KEY,limit=100/10s \
    --account name=three,key=$THREE_KEY,limit=50/10s >"$work/$1/provider.log" &
  provider=$!
  until grep -qs '^listening on ' "$work/$1/provider.log"; do sleep 0.05; done
  url=$(sed -n 's/^listening on //p' "$work/$1/provider.log")
  {
    printf '[nats]\nlisten = "127.0.0.1:0"\n'
    for account in one:ONE_KEY:600 two:TWO_KEY:600 three:THREE_KEY:300; do
      IFS=: read -r name variable limit <<<"$account"
      printf '[account.%s]\nprovider = "openai"\nbase_url = "%s"\nkeys = [{ env = "%s" }]\n' "$name" "$url" "$variable"
      # The provider counts any 10 s, so that is what is configured: a sixth of the minute's.
      printf 'limits = [{ requests = %s, per = "10s" }]\n' $((limit / 6))
    done
    printf '[pool.gpt-4o-mini]\ntargets = [\n'
    for name in one two three; do printf '  { account = "%s", model = "gpt-4o-mini" },\n' "$name"; done
    printf ']\n'
  } >"$work/$1/forebay.toml"
}

check() {
  python3 - "$work/in.jsonl" "$1" <<'PYTHON'
import json, sys
asked = [json.loads(line) for line in open(sys.argv[1])]
answers = [json.loads(line) for line in open(sys.argv[2])]
assert [line["custom_id"] for line in asked] == [line["custom_id"] for line in answers], "not every custom_id once, in order"
for line, answer in zip(asked, answers):
    said = answer["response"]["body"]["choices"][0]["message"]["content"]
    assert said == "You said: " + line["body"]["messages"][0]["content"], (line, answer)
print(f"{len(answers)} answers, every custom_id exactly once, every answer its own")
PYTHON
}

calls() { grep -c '"status"' "$work/$1/record.jsonl" || true; }

echo; echo "== straight through"
prepare straight
(cd "$work/straight" && "$forebay" run ../in.jsonl --output out.jsonl 2>progress.log)
tail -1 "$work/straight/progress.log"
check "$work/straight/out.jsonl"
stop
"$root/benches/recount.py" "$work/straight/record.jsonl" one=100/10 two=100/10 three=50/10

echo; echo "== killed at one third and at two thirds"
prepare killed
for part in $((lines / 3)) $((lines * 2 / 3)); do
  (cd "$work/killed" && exec "$forebay" run ../in.jsonl --output out.jsonl 2>>progress.log) &
  run=$!
  while (($(calls killed) < part)); do sleep 0.05; done
  kill -9 "$run"; wait "$run" 2>/dev/null || true
  echo "killed after $(calls killed) calls"
done
(cd "$work/killed" && "$forebay" run ../in.jsonl --output out.jsonl 2>>progress.log)
check "$work/killed/out.jsonl"
cmp "$work/straight/out.jsonl" "$work/killed/out.jsonl" && echo "the same bytes as straight through"
stop
echo "$(calls killed) calls for $lines lines"
"$root/benches/recount.py" "$work/killed/record.jsonl" one=100/10 two=100/10 three=50/10
