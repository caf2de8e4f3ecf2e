#!/usr/bin/env bash
# Asks each of the simulated providers one thing in its own dialect, and prints the answers, which are all in one.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
forebay=${FOREBAY:-$here/../../target/release/forebay}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

accounts=(--account name=ollama,provider=ollama)
for provider in openai azure anthropic gemini mistral cohere bedrock groq deepseek openrouter; do
  export "SIMULATED_$(tr a-z A-Z <<<"$provider")=sk-simulated-$provider"
  accounts+=(--account "name=$provider,provider=$provider,key=sk-simulated-$provider")
done
"$forebay" simulate --listen 127.0.0.1:9001 "${accounts[@]}" >"$work/simulate.log" &
simulate=$!
trap 'kill "$simulate" 2>/dev/null || true; wait "$simulate" || true; rm -rf "$work"' EXIT
# Its first line says that it listens.
until [[ -s $work/simulate.log ]]; do
  kill -0 "$simulate"
  sleep 0.1
done

cd "$work"
"$forebay" run "$here/jobs.jsonl" --output answers.jsonl --config "$here/forebay.toml"
cat answers.jsonl
