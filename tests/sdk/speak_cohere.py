"""Cohere's SDK."""

import json

import cohere
from cohere.core.api_error import ApiError

from sample import CITY, CITY_MADE, DATA_URL, PICTURE_TOLD, raises, same

TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
CLASSES = {
    400: cohere.BadRequestError,
    401: cohere.UnauthorizedError,
    403: cohere.ForbiddenError,
    404: cohere.NotFoundError,
    422: cohere.UnprocessableEntityError,
    429: cohere.TooManyRequestsError,
    498: cohere.InvalidTokenError,
    499: cohere.ClientClosedRequestError,
    500: cohere.InternalServerError,
    501: cohere.NotImplementedError,
    503: cohere.ServiceUnavailableError,
    504: cohere.GatewayTimeoutError,
}


class Speaker:
    def __init__(self, provider, url, key):
        self.provider, self.url = provider, url
        self.client = self.with_key(key)

    def with_key(self, key):
        return cohere.ClientV2(api_key=key, base_url=self.url, max_retries=0)

    def chat(self, text, model="command-a-03-2025", **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": text}]
        answer = self.client.chat(model=model, messages=messages, **more)
        # The SDK does not check what it reads; its types do when they are made anew.
        return type(answer).model_validate(answer.model_dump(by_alias=True))

    def abilities(self):
        return [
            self.plain, self.system, self.image, self.tool_and_result, self.calls_at_once, self.json_schema, self.stop, self.length,
            self.usage, self.thought, self.embeddings, self.rerank, self.models, self.wrong_key,
            self.unknown_model,
        ]

    def plain(self):
        answer = self.chat("hello", temperature=0.5)
        same((answer.message.content[0].text, answer.finish_reason), ("You said: hello", "COMPLETE"))

    def system(self):
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
        same(self.chat("", messages=messages).message.content[0].text, "You said: hello")

    def image(self):
        content = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": DATA_URL}}]
        answer = self.chat("", messages=[{"role": "user", "content": content}])
        same(answer.message.content[0].text, f"You said: look {PICTURE_TOLD}")

    def tool_and_result(self):
        first = self.chat("what is the weather", tools=[TOOL], tool_choice="REQUIRED")
        same(first.finish_reason, "TOOL_CALL")
        call = first.message.tool_calls[0]
        same((call.function.name, json.loads(call.function.arguments)), ("weather", CITY_MADE))
        assert first.message.tool_plan
        messages = [
            {"role": "user", "content": "what is the weather"},
            {"role": "assistant", "tool_plan": first.message.tool_plan, "tool_calls": [call.model_dump()]},
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]
        answer = self.chat("", messages=messages, tools=[TOOL])
        same(answer.message.content[0].text, "The tool said: rain")

    def calls_at_once(self):
        tools = [TOOL, {"type": "function", "function": {"name": "time", "parameters": CITY}}]
        first = self.chat("call all of them", tools=tools).message
        same([call.function.name for call in first.tool_calls], ["weather", "time"])
        calls = [call.model_dump() for call in first.tool_calls]
        messages = [{"role": "user", "content": "call all of them"}, {"role": "assistant", "tool_calls": calls}]
        for call, text in zip(first.tool_calls, ("rain", "noon")):
            document = [{"type": "document", "document": {"data": text}}]
            messages.append({"role": "tool", "tool_call_id": call.id, "content": document})
        same(self.chat("", messages=messages, tools=tools).message.content[0].text, "The tool said: rain noon")

    def json_schema(self):
        answer = self.chat("hello", response_format={"type": "json_object", "json_schema": CITY})
        same(json.loads(answer.message.content[0].text), CITY_MADE)

    def stop(self):
        answer = self.chat("hello there", stop_sequences=["there"])
        same((answer.message.content[0].text, answer.finish_reason), ("You said: hello ", "STOP_SEQUENCE"))

    def length(self):
        same(self.chat("a long story of a river", max_tokens=3).finish_reason, "MAX_TOKENS")

    def usage(self):
        usage = self.chat("hello").usage
        assert usage.tokens.input_tokens > 0 and usage.tokens.output_tokens > 0
        assert usage.billed_units.input_tokens > 0
        usage = self.chat("cached words").usage
        same(usage.cached_tokens, usage.tokens.input_tokens // 2)

    def thought(self):
        answer = self.chat("hello", thinking={"type": "enabled", "token_budget": 100})
        same([item.type for item in answer.message.content], ["thinking", "text"])

    def embeddings(self):
        more = {"model": "embed-v4.0", "texts": ["one", "two"], "output_dimension": 4}
        answer = self.client.embed(input_type="search_document", embedding_types=["float", "int8"], **more)
        same([len(vector) for vector in answer.embeddings.float_], [4, 4])
        same([len(vector) for vector in answer.embeddings.int8], [4, 4])
        assert answer.meta.billed_units.input_tokens > 0
        raises(cohere.BadRequestError, lambda: self.client.embed(input_type="nothing", **more))
        many = {**more, "texts": ["x"] * 97}
        raises(cohere.BadRequestError, lambda: self.client.v2.embed(input_type="search_query", **many))

    def rerank(self):
        answer = self.client.rerank(
            model="rerank-v3.5", query="rain today", documents=["sun", "rain today", "rain"], top_n=2
        )
        same([result.index for result in answer.results], [1, 2])
        assert answer.meta.billed_units.search_units == 1

    def models(self):
        assert [model.name for model in self.client.models.list().models]

    def wrong_key(self):
        self.client, right = self.with_key("nothing"), self.client
        try:
            raises(cohere.UnauthorizedError, lambda: self.chat("hello"))
        finally:
            self.client = right

    def unknown_model(self):
        raises(cohere.NotFoundError, lambda: self.chat("hello", model="no-such-model"))

    def limited(self, key):
        self.client, right = self.with_key(key), self.client
        try:
            self.chat("hello")
            error = raises(cohere.TooManyRequestsError, lambda: self.chat("hello"))
        finally:
            self.client = right
        return error.headers

    def fail(self, failure):
        call = lambda: self.chat("hello", model="fail-" + failure["case"])
        error = raises(CLASSES.get(failure["status"], ApiError), call)
        same(error.status_code, failure["status"])
