"""Google's SDK, for Gemini."""

import base64
import json

import pydantic
from google import genai
from google.genai import errors, types

from sample import CITY, CITY_MADE, PICTURE_BYTES, PICTURE_TOLD, raises, same

DECLARED = types.Tool(
    function_declarations=[types.FunctionDeclaration(name="weather", parameters_json_schema=CITY)]
)
BY_HAND = types.AutomaticFunctionCallingConfig(disable=True)


class Speaker:
    def __init__(self, provider, url, key):
        self.provider, self.url = provider, url
        self.client = self.with_key(key)

    def with_key(self, key, version=None):
        return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=self.url, api_version=version))

    def chat(self, contents, model="gemini-2.5-flash", **config):
        config = types.GenerateContentConfig(automatic_function_calling=BY_HAND, **config)
        return self.client.models.generate_content(model=model, contents=contents, config=config)

    def abilities(self):
        return [
            self.plain, self.older_address, self.system, self.image, self.tool_and_result, self.calls_at_once, self.json_schema,
            self.stop, self.length, self.candidates, self.refusal, self.usage, self.thought, self.embeddings,
            self.models, self.wrong_key, self.unknown_model,
        ]

    def plain(self):
        answer = self.chat("hello")
        same((answer.text, answer.candidates[0].finish_reason), ("You said: hello", types.FinishReason.STOP))

    def older_address(self):
        self.client, newer = self.with_key(self.key, "v1beta"), self.client
        try:
            same(self.chat("hello").text, "You said: hello")
        finally:
            self.client = newer

    @property
    def key(self):
        return self.client._api_client.api_key

    def system(self):
        same(self.chat("hello", system_instruction="be brief").text, "You said: hello")

    def image(self):
        part = types.Part.from_bytes(data=PICTURE_BYTES, mime_type="image/png")
        same(self.chat(["look", part]).text, f"You said: look {PICTURE_TOLD}")

    def tool_and_result(self):
        mode = types.FunctionCallingConfig(mode="ANY", allowed_function_names=["weather"])
        forced = types.ToolConfig(function_calling_config=mode)
        first = self.chat("what is the weather", tools=[DECLARED], tool_config=forced)
        call = first.function_calls[0]
        same((call.name, call.args), ("weather", CITY_MADE))
        user = types.Content(role="user", parts=[types.Part(text="what is the weather")])
        part = types.Part.from_function_response(name="weather", response={"result": "rain"})
        result = types.Content(role="user", parts=[part])
        contents = [user, first.candidates[0].content, result]
        same(self.chat(contents, tools=[DECLARED]).text, "The tool said: rain")
        raises(errors.ClientError, lambda: self.chat([user, result], tools=[DECLARED]))

    def calls_at_once(self):
        names = ("weather", "time")
        tools = [types.Tool(function_declarations=[
            types.FunctionDeclaration(name=name, parameters_json_schema=CITY) for name in names])]
        for model in ("gemini-2.5-flash", "gemini-3-pro"):
            first = self.chat("call all of them", model=model, tools=tools)
            same([call.name for call in first.function_calls], list(names))
            same(all(call.id for call in first.function_calls), model == "gemini-3-pro")
            user = types.Content(role="user", parts=[types.Part(text="call all of them")])
            parts = [
                types.Part.from_function_response(name=name, response={"result": text})
                for name, text in zip(names, ("rain", "noon"))
            ]
            contents = [user, first.candidates[0].content, types.Content(role="user", parts=parts)]
            same(self.chat(contents, model=model, tools=tools).text, "The tool said: rain noon")

    def json_schema(self):
        answer = self.chat("hello", response_mime_type="application/json", response_json_schema=CITY)
        same(json.loads(answer.text), CITY_MADE)

        class City(pydantic.BaseModel):
            city: str
            days: int

        answer = self.chat("hello", response_mime_type="application/json", response_schema=City)
        same(answer.parsed, City(**CITY_MADE))

    def stop(self):
        same(self.chat("hello there", stop_sequences=["there"]).text, "You said: hello ")

    def length(self):
        answer = self.chat("a long story of a river", max_output_tokens=3)
        same(answer.candidates[0].finish_reason, types.FinishReason.MAX_TOKENS)

    def candidates(self):
        same(len(self.chat("hello", candidate_count=2).candidates), 2)

    def refusal(self):
        answer = self.chat("refuse this")
        same((answer.candidates, answer.prompt_feedback.block_reason), (None, types.BlockedReason.SAFETY))

    def usage(self):
        usage = self.chat("hello").usage_metadata
        same(usage.total_token_count, usage.prompt_token_count + usage.candidates_token_count)
        usage = self.chat("cached words").usage_metadata
        same(usage.cached_content_token_count, usage.prompt_token_count // 2)

    def thought(self):
        thinking = types.ThinkingConfig(include_thoughts=True)
        first = self.chat("call it", model="gemini-3-pro", tools=[DECLARED], thinking_config=thinking)
        parts = first.candidates[0].content.parts
        assert parts[0].thought and parts[1].thought_signature, parts
        assert first.usage_metadata.thoughts_token_count > 0
        user = types.Content(role="user", parts=[types.Part(text="call it")])
        part = types.Part.from_function_response(name="weather", response={"result": "rain"})
        result = types.Content(role="user", parts=[part])

        def back(seal):
            call = types.Part(function_call=parts[1].function_call, thought_signature=seal)
            model = types.Content(role="model", parts=[call])
            return self.chat([user, model, result], model="gemini-3-pro", tools=[DECLARED])

        assert back(parts[1].thought_signature).text == "The tool said: rain"
        raises(errors.ClientError, lambda: back(base64.b64decode("c2VhbGVk")))
        raises(errors.ClientError, lambda: back(None))

    def embeddings(self):
        config = types.EmbedContentConfig(task_type="RETRIEVAL_DOCUMENT", output_dimensionality=4)
        answer = self.client.models.embed_content(
            model="gemini-embedding-001", contents=["one", "two"], config=config
        )
        same([len(embedding.values) for embedding in answer.embeddings], [4, 4])

    def models(self):
        assert [model.name for model in self.client.models.list()]

    def wrong_key(self):
        self.client, right = self.with_key("AIza-nothing"), self.client
        try:
            error = raises(errors.ClientError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same((error.code, error.status), (400, "INVALID_ARGUMENT"))

    def unknown_model(self):
        same(raises(errors.ClientError, lambda: self.chat("hello", model="no-such-model")).code, 404)

    def limited(self, key):
        self.client, right = self.with_key(key), self.client
        try:
            self.chat("hello")
            error = raises(errors.ClientError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same((error.code, error.status), (429, "RESOURCE_EXHAUSTED"))
        assert any("retryDelay" in detail for detail in error.details["error"]["details"])
        return error.response.headers

    def fail(self, failure):
        call = lambda: self.chat("hello", model="fail-" + failure["case"])
        if failure["class"] == "malformed_response":
            try:
                answer = call()
            except (errors.APIError, ValueError):
                return
            assert answer.candidates is None, answer
            return
        if failure["status"] == 200:
            answer = call()
            blocked = answer.prompt_feedback and answer.prompt_feedback.block_reason
            assert blocked or answer.candidates[0].finish_reason != types.FinishReason.STOP, answer
            assert not answer.text
            return
        kind = errors.ServerError if failure["status"] >= 500 else errors.ClientError
        same(raises(kind, call).code, failure["status"])
