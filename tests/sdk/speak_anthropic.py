"""Anthropic's SDK."""

import json

import anthropic

from sample import CITY, CITY_MADE, PICTURE, PICTURE_TOLD, raises, same

TOOL = {"name": "weather", "description": "the weather", "input_schema": CITY}
CLASSES = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    409: anthropic.ConflictError,
    422: anthropic.UnprocessableEntityError,
    429: anthropic.RateLimitError,
}


class Speaker:
    def __init__(self, provider, url, key):
        self.provider, self.url = provider, url
        self.client = self.with_key(key)

    def with_key(self, key, **more):
        return anthropic.Anthropic(
            api_key=key, base_url=self.url, max_retries=0, _strict_response_validation=True, **more
        )

    def chat(self, text, **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": text}]
        return self.client.messages.create(
            **{"model": "claude-sonnet-4-5", "max_tokens": 2000, "messages": messages, **more}
        )

    def abilities(self):
        return [
            self.plain, self.system_and_cache, self.image, self.tool_and_result, self.calls_at_once, self.json_schema, self.stop,
            self.length, self.refusal, self.usage, self.thought, self.versions, self.headers, self.models,
            self.wrong_key, self.unknown_model,
        ]

    def plain(self):
        answer = self.chat("hello")
        same((answer.content[0].text, answer.stop_reason), ("You said: hello", "end_turn"))

    def system_and_cache(self):
        same(self.chat("hello", system="be brief").content[0].text, "You said: hello")
        system = [{"type": "text", "text": "be brief " * 50, "cache_control": {"type": "ephemeral"}}]
        usage = self.chat("hello", system=system).usage
        assert usage.cache_creation_input_tokens > 0 and usage.input_tokens > 0

    def image(self):
        source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
        content = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
        answer = self.chat("", messages=[{"role": "user", "content": content}])
        same(answer.content[0].text, f"You said: look {PICTURE_TOLD}")

    def tool_and_result(self):
        first = self.chat("what is the weather", tools=[TOOL], tool_choice={"type": "any"})
        call = first.content[0]
        same((first.stop_reason, call.name, call.input), ("tool_use", "weather", CITY_MADE))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        user = {"role": "user", "content": "what is the weather"}
        messages = [user, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        same(self.chat("", messages=messages, tools=[TOOL]).content[0].text, "The tool said: rain")
        raises(anthropic.BadRequestError, lambda: self.chat("", messages=[user, messages[2]], tools=[TOOL]))

    def calls_at_once(self):
        tools = [TOOL, {**TOOL, "name": "time"}]
        first = self.chat("call all of them", tools=tools)
        same([call.name for call in first.content], ["weather", "time"])
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": text}
            for call, text in zip(first.content, ("rain", "noon"))
        ]
        messages = [{"role": "user", "content": "call all of them"}, {"role": "assistant", "content": first.content}]
        whole = messages + [{"role": "user", "content": results}]
        same(self.chat("", messages=whole, tools=tools).content[0].text, "The tool said: rain noon")
        apart = messages + [{"role": "user", "content": [result]} for result in results]
        raises(anthropic.BadRequestError, lambda: self.chat("", messages=apart, tools=tools))
        choice = {"type": "auto", "disable_parallel_tool_use": True}
        same(len(self.chat("call all of them", tools=tools, tool_choice=choice).content), 1)

    def json_schema(self):
        form = {"format": {"type": "json_schema", "schema": CITY}}
        same(json.loads(self.chat("hello", output_config=form).content[0].text), CITY_MADE)

    def stop(self):
        answer = self.chat("hello there", stop_sequences=["there"])
        same((answer.stop_reason, answer.stop_sequence), ("stop_sequence", "there"))
        same(answer.content[0].text, "You said: hello ")

    def length(self):
        answer = self.chat("a long story of a river", max_tokens=3)
        same((answer.stop_reason, answer.usage.output_tokens), ("max_tokens", 3))

    def refusal(self):
        answer = self.chat("refuse this")
        same((answer.stop_reason, answer.stop_details.category), ("refusal", "cyber"))

    def usage(self):
        usage = self.chat("hello").usage
        assert usage.input_tokens > 0 and usage.output_tokens > 0
        same((usage.cache_read_input_tokens, usage.cache_creation_input_tokens), (0, 0))
        usage = self.chat("cached words").usage
        assert usage.cache_read_input_tokens in (usage.input_tokens, usage.input_tokens - 1), usage

    def thought(self):
        more = {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
        first = self.chat("call it", **more)
        same([block.type for block in first.content], ["thinking", "tool_use"])
        assert first.usage.output_tokens_details.thinking_tokens > 0
        user = {"role": "user", "content": "call it"}
        result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "rain"}
        result = {"role": "user", "content": [result]}
        back = lambda content: self.chat(
            "", messages=[user, {"role": "assistant", "content": content}, result], **more
        )
        same(back(first.content).content[-1].text, "The tool said: rain")
        forged = [dict(first.content[0].model_dump(), signature="sealed"), first.content[1].model_dump()]
        raises(anthropic.BadRequestError, lambda: back(forged))
        raises(anthropic.BadRequestError, lambda: back(first.content[1:]))
        short = {"type": "enabled", "budget_tokens": 1000}
        raises(anthropic.BadRequestError, lambda: self.chat("hello", thinking=short))

    def versions(self):
        warm = {"extra_body": {"temperature": 1.0}}
        raises(anthropic.BadRequestError, lambda: self.chat("hello", **warm))
        older = {"anthropic-version": "2023-06-01"}
        same(self.chat("hello", extra_headers=older, **warm).content[0].text, "You said: hello")
        unknown = {"anthropic-version": "2020-01-01"}
        raises(anthropic.BadRequestError, lambda: self.chat("hello", extra_headers=unknown))

    def headers(self):
        # A key in the older header is stronger than one in the newer.
        older = {"X-Api-Key": "sk-ant-nothing"}
        raises(anthropic.AuthenticationError, lambda: self.chat("hello", extra_headers=older))
        older = {"X-Api-Key": self.client.api_key, "Authorization": anthropic.omit}
        same(self.chat("hello", extra_headers=older).content[0].text, "You said: hello")

    def models(self):
        assert [model.id for model in self.client.models.list().data]

    def wrong_key(self):
        self.client, right = self.with_key("sk-ant-nothing"), self.client
        try:
            error = raises(anthropic.AuthenticationError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same(error.type, "authentication_error")

    def unknown_model(self):
        raises(anthropic.NotFoundError, lambda: self.chat("hello", model="no-such-model"))

    def limited(self, key):
        self.client, right = self.with_key(key), self.client
        try:
            self.chat("hello")
            error = raises(anthropic.RateLimitError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same(error.type, "rate_limit_error")
        return error.response.headers

    def fail(self, failure):
        call = lambda: self.chat("hello", model="fail-" + failure["case"])
        if failure["status"] == 200:
            raises(anthropic.APIResponseValidationError, call)
            return
        default = anthropic.InternalServerError if failure["status"] >= 500 else anthropic.APIStatusError
        error = raises(CLASSES.get(failure["status"], default), call)
        same(error.status_code, failure["status"])
        assert error.type and error.request_id, error
