"""Holds the fixtures of providers against the types of the vendors' own SDKs: requests against what the SDK of the
provider would send, answers against what it would read, unified answers against OpenAI's. Exits with 1 on a problem.
"""

import json
import pathlib
import sys

import vendors

FIXTURES = pathlib.Path(__file__).parents[3] / "providers" / "tests" / "providers"
# Chats that ask an OpenAI-like server for what OpenAI does not have, by fields or by what stands in them.
BEYOND_OPENAI = {"top-k", "unknown-field"}
NOT_OPENAI = {"result-with-image"}
# Servers of OpenAI's dialect have fields in messages that OpenAI has not.
SERVERS = {"groq", "deepseek", "openrouter"}

REQUESTS = {
    "openai-responses": vendors.openai_responses,
    "anthropic": vendors.anthropic_2023_request,
    "anthropic-2026": vendors.anthropic_request,
    "vertex-claude": vendors.vertex_claude_request,
    "gemini": vendors.gemini_request,
    "mistral": vendors.mistral_request,
    "cohere": vendors.cohere_request,
    "bedrock-claude": vendors.bedrock_request,
    "bedrock-nova": vendors.bedrock_request,
    "ollama": vendors.ollama_request,
}
OTHER_KINDS = {
    "/v2/embed": vendors.cohere_embed,
    "/v2/rerank": vendors.cohere_rerank,
    "/api/embed": vendors.ollama_embed,
}
ANSWERS = {
    "anthropic": vendors.anthropic_answer,
    "gemini": vendors.gemini_answer,
    "mistral": vendors.mistral_answer,
    "cohere": vendors.cohere_answer,
    "bedrock": vendors.bedrock_answer,
    "ollama": vendors.ollama_answer,
    "openai": vendors.openai_completion,
    "openai-responses": vendors.openai_response,
}
# Fixtures of what no vendor's types know on purpose: kinds and reasons of tomorrow, and answers that are broken.
STRANGE = ("unknown", "evaporated", "EVAPORATED", "null content", "without arguments")

problems = []


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def hold(where, found):
    problems.extend(f"{where}: {problem}" for problem in found)
    return 1


def chat(target, name, body):
    if target in REQUESTS:
        return REQUESTS[target](body)
    if name in NOT_OPENAI:
        return []
    return vendors.openai_chat(body, closed=target not in SERVERS and name not in BEYOND_OPENAI)


def requests(fixture):
    for path in sorted((FIXTURES / fixture).glob("*.jsonl")):
        target, said, refused = path.stem, 0, 0
        for line in lines(path):
            if "refused" in line:
                refused += 1
                continue
            # What goes to OpenAI's dialect as it is stays as wrong as it was: the server refuses it.
            if fixture == "hostile" and target not in REQUESTS:
                continue
            said += hold(f"{fixture}/{target}/{line['name']}", chat(target, line["name"], line["said"]["body"]))
        print(f"{fixture:8} {target:18} {said:3} validated, {refused:3} refused by Forebay")


def other_kinds():
    for path in sorted((FIXTURES / "kinds").glob("*.jsonl")):
        target, said, refused = path.stem, 0, 0
        for line in lines(path):
            if "refused" in line:
                refused += 1
                continue
            where, body = line["said"]["path"], line["said"]["body"]
            if where.endswith(":batchEmbedContents"):
                found = vendors.gemini_embed(body)
            elif target == "mistral" and where == "/embeddings":
                found = vendors.mistral_embed(body)
            elif where in OTHER_KINDS:
                found = OTHER_KINDS[where](body)
            elif target in ("openai", "azure") and where in vendors.OPENAI_KINDS and "of-" not in line["name"]:
                closed = not line["name"].endswith(("unknown-field", "nulls"))
                found = vendors.typed(vendors.OPENAI_KINDS[where], body, closed) if closed else []
            else:
                continue
            said += hold(f"kinds/{target}/{line['name']}", found)
        print(f"kinds    {target:18} {said:3} validated, {refused:3} refused by Forebay")


def answers():
    for path in sorted((FIXTURES / "answers").glob("*.json")):
        given = json.loads(path.read_text(encoding="utf-8"))
        read = {line["name"]: line for line in lines(path.with_suffix(".golden.jsonl"))}
        own = unified = 0
        for answer in given:
            name, where = answer["name"], f"answers/{path.stem}/{answer['name']}"
            is_chat = answer.get("url", "/v1/chat/completions") == "/v1/chat/completions"
            line = read[name]
            is_answer = "body" in line and line["class"] in (None, "content_filtered")
            if path.stem in ANSWERS and is_chat and not any(word in name for word in STRANGE):
                own += hold(where, ANSWERS[path.stem](answer["body"]))
            if not is_answer:
                continue
            if is_chat and not (path.stem == "openai-like" and "unknown" in name or "nulls" in name):
                unified += hold(f"{where}, unified", vendors.openai_completion(line["body"]))
            if answer.get("url") == "/v1/embeddings":
                unified += hold(f"{where}, unified", vendors.openai_embeddings(line["body"]))
            if answer.get("url") == "/v1/moderations":
                unified += hold(f"{where}, unified", vendors.openai_moderations(line["body"]))
        print(f"answers  {path.stem:18} {own:3} of the vendor's shape validated, {unified:3} unified")


def controls():
    """A check that finds nothing in what is plainly wrong would prove nothing."""
    for path in sorted((FIXTURES / "chats").glob("*.jsonl")):
        body = next(line["said"]["body"] for line in lines(path) if "said" in line)
        turns = "contents" if "contents" in body else "input" if "input" in body else "messages"
        wrong = [{**body, "forebay": 1}, {**body, turns: "x"} if turns != "input" else {**body, turns: 7}]
        if path.stem not in SERVERS:
            wrong.append({**body, turns: [{**body[turns][0], "forebay": 1}]})
        wrong.append({**body, turns: [{**body[turns][0], "role": 7}]})
        for at, one in enumerate(wrong):
            if path.stem in SERVERS and at == 0:
                continue
            if not chat(path.stem, "control", one):
                problems.append(f"controls/{path.stem}: mistake {at} is not found")


controls()
requests("chats")
requests("hostile")
other_kinds()
answers()
for problem in problems:
    print(problem, file=sys.stderr)
print(f"{len(problems)} problems")
sys.exit(bool(problems))
