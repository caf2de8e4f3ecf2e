"""Ollama's SDK."""

import json

import ollama

from sample import CITY, CITY_MADE, PICTURE_BYTES, raises, same

TOOL = {"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": CITY}}


class Speaker:
    def __init__(self, provider, url, _key):
        self.provider = provider
        self.client = ollama.Client(host=url)

    def chat(self, text, model="llama3.2", **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": text}]
        return self.client.chat(model=model, messages=messages, **more)

    def abilities(self):
        return [
            self.plain, self.pieces, self.system, self.image, self.tool_and_result, self.calls_at_once, self.json_schema, self.stop,
            self.length, self.usage, self.thought, self.embeddings, self.models, self.unknown_model,
        ]

    def plain(self):
        answer = self.chat("hello", options={"temperature": 0.5})
        same((answer.message.content, answer.done_reason), ("You said: hello", "stop"))

    def pieces(self):
        pieces = list(self.chat("hello", stream=True))
        same("".join(piece.message.content for piece in pieces), "You said: hello")
        same([piece.done for piece in pieces], [False, True])

    def system(self):
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
        same(self.chat("", messages=messages).message.content, "You said: hello")

    def image(self):
        messages = [{"role": "user", "content": "look", "images": [PICTURE_BYTES]}]
        told = f"[image unknown {len(PICTURE_BYTES)} bytes]"
        same(self.chat("", messages=messages).message.content, f"You said: look {told}")

    def tool_and_result(self):
        first = self.chat("call it", tools=[TOOL])
        call = first.message.tool_calls[0].function
        same((call.name, dict(call.arguments)), ("weather", CITY_MADE))
        messages = [
            {"role": "user", "content": "call it"},
            first.message,
            {"role": "tool", "tool_name": "weather", "content": "rain"},
        ]
        same(self.chat("", messages=messages, tools=[TOOL]).message.content, "The tool said: rain")

    def calls_at_once(self):
        tools = [TOOL, {**TOOL, "function": {**TOOL["function"], "name": "time"}}]
        first = self.chat("call all of them", tools=tools).message
        same([call.function.name for call in first.tool_calls], ["weather", "time"])
        messages = [{"role": "user", "content": "call all of them"}, first]
        for name, text in (("weather", "rain"), ("time", "noon")):
            messages.append({"role": "tool", "tool_name": name, "content": text})
        same(self.chat("", messages=messages, tools=tools).message.content, "The tool said: rain noon")

    def json_schema(self):
        same(json.loads(self.chat("hello", format=CITY).message.content), CITY_MADE)

    def stop(self):
        same(self.chat("hello there", options={"stop": ["there"]}).message.content, "You said: hello ")

    def length(self):
        answer = self.chat("a long story of a river", options={"num_predict": 3})
        same((answer.done_reason, answer.eval_count), ("length", 3))

    def usage(self):
        answer = self.chat("hello")
        assert answer.prompt_eval_count > 0 and answer.eval_count > 0

    def thought(self):
        assert self.chat("hello", think=True).message.thinking

    def embeddings(self):
        answer = self.client.embed(model="nomic-embed-text", input=["one", "two"], dimensions=4)
        same([len(vector) for vector in answer.embeddings], [4, 4])

    def models(self):
        assert [model.model for model in self.client.list().models]

    def unknown_model(self):
        error = raises(ollama.ResponseError, lambda: self.chat("hello", model="no-such-model"))
        same(error.status_code, 404)

    def limited(self, key):
        return None

    def fail(self, failure):
        call = lambda: self.chat("hello", model="fail-" + failure["case"])
        if failure["status"] == 200:
            raises(Exception, call)
            return
        same(raises(ollama.ResponseError, call).status_code, failure["status"])
