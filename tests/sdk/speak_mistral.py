"""Mistral's SDK."""

import json

from mistralai.client import Mistral, errors

from sample import CITY, CITY_MADE, DATA_URL, PICTURE_BYTES, PICTURE_TOLD, raises, same

TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


class Speaker:
    def __init__(self, provider, url, key):
        self.provider, self.url = provider, url
        self.client = self.with_key(key)

    def with_key(self, key):
        return Mistral(api_key=key, server_url=self.url, retry_config=None)

    def chat(self, text, model="mistral-small-latest", **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": text}]
        return self.client.chat.complete(model=model, messages=messages, **more)

    def abilities(self):
        return [
            self.plain, self.system, self.image, self.tool_and_result, self.calls_at_once, self.json_schema, self.stop, self.length,
            self.candidates, self.usage, self.thought, self.embeddings, self.moderation, self.transcription,
            self.models, self.order_of_roles, self.wrong_key, self.unknown_model,
        ]

    def plain(self):
        answer = self.chat("hello", temperature=0.5, random_seed=1)
        same((answer.choices[0].message.content, answer.choices[0].finish_reason), ("You said: hello", "stop"))

    def system(self):
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
        same(self.chat("", messages=messages).choices[0].message.content, "You said: hello")

    def image(self):
        content = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": DATA_URL}]
        answer = self.chat("", messages=[{"role": "user", "content": content}])
        same(answer.choices[0].message.content, f"You said: look {PICTURE_TOLD}")

    def tool_and_result(self):
        first = self.chat("what is the weather", tools=[TOOL], tool_choice="any")
        call = first.choices[0].message.tool_calls[0]
        same((call.function.name, json.loads(call.function.arguments)), ("weather", CITY_MADE))
        assert len(call.id) == 9 and call.id.isalnum()
        user = {"role": "user", "content": "what is the weather"}
        made = lambda name: [
            user,
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": name, "function": {"name": "weather", "arguments": call.function.arguments}}]},
            {"role": "tool", "tool_call_id": name, "name": "weather", "content": "rain"},
        ]
        answer = self.chat("", messages=made(call.id), tools=[TOOL])
        same(answer.choices[0].message.content, "The tool said: rain")
        raises(errors.SDKError, lambda: self.chat("", messages=made("call_123"), tools=[TOOL]))

    def calls_at_once(self):
        tools = [TOOL, {"type": "function", "function": {"name": "time", "parameters": CITY}}]
        first = self.chat("call all of them", tools=tools).choices[0].message
        same([call.function.name for call in first.tool_calls], ["weather", "time"])
        messages = [{"role": "user", "content": "call all of them"}, first.model_dump(exclude_none=True)]
        for call, text in zip(first.tool_calls, ("rain", "noon")):
            messages.append({"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": text})
        same(self.chat("", messages=messages, tools=tools).choices[0].message.content, "The tool said: rain noon")

    def json_schema(self):
        form = {"type": "json_schema", "json_schema": {"name": "city", "schema_definition": CITY, "strict": True}}
        answer = self.chat("hello", response_format=form)
        same(json.loads(answer.choices[0].message.content), CITY_MADE)

    def stop(self):
        same(self.chat("hello there", stop=["there"]).choices[0].message.content, "You said: hello ")

    def length(self):
        same(self.chat("a long story of a river", max_tokens=3).choices[0].finish_reason, "length")

    def candidates(self):
        same(len(self.chat("hello", n=2).choices), 2)

    def usage(self):
        usage = self.chat("hello").usage
        same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        usage = self.chat("cached words").usage
        same(usage.model_extra["prompt_tokens_details"]["cached_tokens"], usage.prompt_tokens // 2)

    def thought(self):
        message = self.chat("think hard").choices[0].message
        chunk, text = message.content
        same((chunk.type, text.type), ("thinking", "text"))
        user = {"role": "user", "content": "go on"}
        back = lambda seal: self.chat("", messages=[user, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": chunk.thinking[0].text}], "signature": seal},
            {"type": "text", "text": "hm"},
        ]}, user])
        same(back(chunk.signature).choices[0].message.content, "You said: go on")
        raises(errors.MistralError, lambda: back("sealed"))

    def embeddings(self):
        answer = self.client.embeddings.create(model="mistral-embed", inputs=["one", "two"], output_dimension=4)
        same([len(item.embedding) for item in answer.data], [4, 4])

    def moderation(self):
        answer = self.client.classifiers.moderate(model="mistral-moderation-latest", inputs=["hello", "refuse it"])
        same([any(result.categories.values()) for result in answer.results], [False, True])

    def transcription(self):
        file = {"file_name": "talk.mp3", "content": PICTURE_BYTES}
        hear = lambda model="voxtral-mini-latest", **more: self.client.audio.transcriptions.complete(model=model, **more)
        answer = hear(file=file, language="en")
        assert answer.text.startswith(f"You sent: {len(PICTURE_BYTES)} bytes of talk.mp3"), answer.text
        same((answer.model, answer.language, answer.segments), ("voxtral-mini-latest", "en", []))
        usage = answer.usage
        same((usage.prompt_audio_seconds, usage.total_tokens), (1, usage.prompt_tokens + usage.completion_tokens))
        answer = hear(file_url="https://example.com/talk.mp3", timestamp_granularities=["segment"])
        same(([segment.text for segment in answer.segments], answer.language), ([answer.text], None))
        same(raises(errors.SDKError, hear).status_code, 422)
        same(raises(errors.SDKError, lambda: hear("no-such-model", file=file)).status_code, 404)

    def models(self):
        assert [model.id for model in self.client.models.list().data]

    def order_of_roles(self):
        user = {"role": "user", "content": "hello"}
        raises(errors.SDKError, lambda: self.chat("", messages=[user, {"role": "assistant", "content": "hi"}]))

    def wrong_key(self):
        self.client, right = self.with_key("nothing"), self.client
        try:
            error = raises(errors.SDKError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same((error.status_code, json.loads(error.body)), (401, {"detail": "Unauthorized"}))

    def unknown_model(self):
        same(raises(errors.SDKError, lambda: self.chat("hello", model="no-such-model")).status_code, 404)

    def limited(self, key):
        self.client, right = self.with_key(key), self.client
        try:
            self.chat("hello")
            error = raises(errors.SDKError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same(error.status_code, 429)
        return error.headers

    def fail(self, failure):
        call = lambda: self.chat("hello", model="fail-" + failure["case"])
        # What is not JSON it cannot place, and a list of fields it knows as an error of its own.
        listed = failure["case"] == "bad_request"
        error = raises(errors.HTTPValidationError if listed else errors.MistralError, call)
        same(error.status_code, failure["status"])
