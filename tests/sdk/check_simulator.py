"""Speaks with the simulated provider through the vendors' own SDKs: it must be what they expect.

Every ability and every failure is tried once, without retries. Ends with 1 if anything went wrong.
"""

import json
import os
import subprocess
import sys
import traceback
import warnings

# What the surroundings configure must not lead anywhere else.
for name in list(os.environ):
    if name.lower().endswith("_proxy") or name.startswith(("OPENAI_", "ANTHROPIC_", "AWS_", "GOOGLE_", "GEMINI_")):
        del os.environ[name]

import speak_anthropic
import speak_bedrock
import speak_cohere
import speak_gemini
import speak_mistral
import speak_ollama
import speak_openai

SPEAKERS = {
    "openai": speak_openai.Speaker,
    "azure": speak_openai.Speaker,
    "anthropic": speak_anthropic.Speaker,
    "gemini": speak_gemini.Speaker,
    "mistral": speak_mistral.Speaker,
    "cohere": speak_cohere.Speaker,
    "bedrock": speak_bedrock.Speaker,
    "ollama": speak_ollama.Speaker,
    "groq": speak_openai.Speaker,
    "deepseek": speak_openai.Speaker,
    "openrouter": speak_openai.Speaker,
}
# A header that a refusal by a limit must have; some have none.
REFUSAL_HEADER = {
    "openai": "x-ratelimit-reset-requests",
    "azure": "retry-after-ms",
    "anthropic": "anthropic-ratelimit-requests-reset",
    "mistral": "x-ratelimit-limit-req-minute",
    "cohere": "x-ratelimit-reset",
    "bedrock": "x-amzn-errortype",
    "groq": "x-ratelimit-reset-requests",
    "openrouter": "x-ratelimit-reset",
}


def key(provider):
    return f"sk-{provider}-0123456789-tail"


def start(forebay, provider):
    """A running provider with an account, and with one that allows a single call."""
    if provider == "ollama":
        accounts = ["name=ollama,provider=ollama"]
    else:
        accounts = [
            f"name={provider},provider={provider},key={key(provider)}",
            f"name={provider}-one,provider={provider},key={key(provider)}-one,limit=1/1h",
        ]
    command = [forebay, "--json", "simulate", "--listen", "127.0.0.1:0", "--latency", "0ms"]
    for account in accounts:
        command += ["--account", account]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, json.loads(process.stdout.readline())["url"]


def failures(forebay):
    listed = subprocess.run([forebay, "--json", "simulate", "--list-failures"], check=True, capture_output=True)
    return json.loads(listed.stdout)["failures"]


def attempt(call):
    """None where it went well, else what went wrong. A warning is an error too."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    told = [str(warning.message) for warning in told if not issubclass(warning.category, (DeprecationWarning, ResourceWarning))]
    return told[0].splitlines()[0] if told else None


def limited(speaker):
    headers = speaker.limited(key(speaker.provider) + "-one")
    header = REFUSAL_HEADER.get(speaker.provider)
    if header:
        assert header in {name.lower() for name in headers}, f"no {header} in {dict(headers)}"


def checks(speaker, cases):
    for ability in speaker.abilities():
        yield ability.__name__, ability
    yield "limited", lambda: limited(speaker)
    for case in cases:
        if case["provider"] == speaker.provider:
            yield f"fail-{case['case']}", lambda case=case: speaker.fail(case)


def main():
    forebay = sys.argv[1]
    cases = failures(forebay)
    table = []
    for provider, speaker_of in SPEAKERS.items():
        process, url = start(forebay, provider)
        try:
            speaker = speaker_of(provider, url, key(provider))
            count = wrong = 0
            for name, check in checks(speaker, cases):
                problem = attempt(check)
                count, wrong = count + 1, wrong + (problem is not None)
                print(f"{provider:11} {name:40} {'ok' if problem is None else problem}", flush=True)
            table.append((provider, count, wrong))
        finally:
            process.terminate()
            process.wait()
    print(f"\n{'PROVIDER':11} {'CHECKS':>6} {'WRONG':>6}")
    for provider, count, wrong in table:
        print(f"{provider:11} {count:6} {wrong:6}")
    total, wrong = (sum(row[place] for row in table) for place in (1, 2))
    print(f"{'all':11} {total:6} {wrong:6}")
    spoken = {provider for provider, _, _ in table}
    missing = {case["provider"] for case in cases} - spoken
    if missing:
        print(f"no SDK speaks with {', '.join(sorted(missing))}")
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
