"""OpenAI's SDK: OpenAI, Azure, and those that speak as OpenAI does."""

import json

import openai

from sample import CITY, CITY_MADE, DATA_URL, PICTURE_BYTES, PICTURE_TOLD, raises, same

TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
BASE = {
    "openai": "/v1",
    "azure": "/openai/v1",
    "groq": "/openai/v1",
    "deepseek": "",
    "openrouter": "/api/v1",
}
CLASSES = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


class Speaker:
    def __init__(self, provider, url, key):
        self.provider, self.url = provider, url
        self.client = self.with_key(key)
        self.model = "gpt-4o-mini"

    def with_key(self, key, strict=True):
        return openai.OpenAI(
            api_key=key,
            base_url=self.url + BASE[self.provider],
            max_retries=0,
            _strict_response_validation=strict,
        )

    def chat(self, text, **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": text}]
        return self.client.chat.completions.create(model=self.model, messages=messages, **more)

    def abilities(self):
        every = [
            self.plain, self.system, self.image, self.tool_and_result, self.calls_at_once, self.json_schema, self.json_object,
            self.stop, self.length, self.refusal, self.usage, self.models, self.wrong_key, self.unknown_model,
        ]
        if self.provider != "groq":
            every.append(self.candidates)
        if self.provider in ("groq", "deepseek", "openrouter"):
            every.append(self.reasoning)
        if self.provider == "groq":
            every.append(self.unsupported_fields)
        if self.provider != "deepseek":
            every += [self.embeddings, self.moderation, self.picture, self.speech, self.transcription]
            every += [self.responses, self.responses_tool, self.responses_thought]
        if self.provider == "azure":
            every.append(self.classic)
        return every

    def plain(self):
        answer = self.chat("hello")
        same(answer.choices[0].message.content, "You said: hello")
        same(answer.choices[0].finish_reason, "stop")
        assert self.chat("hello").id == answer.id, "another answer to the same request"

    def system(self):
        messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hello"}]
        same(self.chat("", messages=messages).choices[0].message.content, "You said: hello")

    def image(self):
        content = [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": DATA_URL}},
        ]
        answer = self.chat("", messages=[{"role": "user", "content": content}])
        same(answer.choices[0].message.content, f"You said: look {PICTURE_TOLD}")

    def tool_and_result(self):
        first = self.chat("what is the weather", tools=[TOOL], tool_choice="required")
        same(first.choices[0].finish_reason, "tool_calls")
        call = first.choices[0].message.tool_calls[0]
        same((call.function.name, json.loads(call.function.arguments)), ("weather", CITY_MADE))
        messages = [
            {"role": "user", "content": "what is the weather"},
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]
        answer = self.chat("", messages=messages, tools=[TOOL])
        same(answer.choices[0].message.content, "The tool said: rain")
        del messages[1]
        raises(openai.BadRequestError, lambda: self.chat("", messages=messages, tools=[TOOL]))
        named = {"type": "function", "function": {"name": "weather"}}
        answer = self.chat("hi", tools=[TOOL], tool_choice=named)
        same(answer.choices[0].message.tool_calls[0].function.name, "weather")

    def calls_at_once(self):
        tools = [TOOL, {"type": "function", "function": {"name": "time", "parameters": CITY}}]
        first = self.chat("call all of them", tools=tools).choices[0].message
        same([call.function.name for call in first.tool_calls], ["weather", "time"])
        messages = [{"role": "user", "content": "call all of them"}, first.model_dump(exclude_none=True)]
        for call, text in zip(first.tool_calls, ("rain", "noon")):
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        same(self.chat("", messages=messages, tools=tools).choices[0].message.content, "The tool said: rain noon")
        raises(openai.BadRequestError, lambda: self.chat("", messages=messages[:3] + messages[:1], tools=tools))
        alone = self.chat("call all of them", tools=tools, parallel_tool_calls=False)
        same(len(alone.choices[0].message.tool_calls), 1)

    def json_schema(self):
        form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
        answer = self.chat("hello", response_format=form)
        same(json.loads(answer.choices[0].message.content), CITY_MADE)

    def json_object(self):
        answer = self.chat("hello", response_format={"type": "json_object"})
        assert isinstance(json.loads(answer.choices[0].message.content), dict)

    def stop(self):
        same(self.chat("hello there", stop=["there"]).choices[0].message.content, "You said: hello ")

    def length(self):
        answer = self.chat("a long story of a river", max_completion_tokens=3)
        same((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 3))

    def candidates(self):
        same(len(self.chat("hello", n=3).choices), 3)

    def refusal(self):
        choice = self.chat("refuse this").choices[0]
        if self.provider in ("azure", "deepseek"):
            same((choice.finish_reason, choice.message.content), ("content_filter", ""))
        else:
            assert choice.message.refusal and choice.message.content is None

    def usage(self):
        usage = self.chat("hello").usage
        assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
        same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        usage = self.chat("cached words").usage
        same(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens // 2)
        if self.provider == "deepseek":
            hit, miss = usage.model_extra["prompt_cache_hit_tokens"], usage.model_extra["prompt_cache_miss_tokens"]
            same(hit + miss, usage.prompt_tokens)

    def reasoning(self):
        answer = self.chat("think hard")
        extra = answer.choices[0].message.model_extra
        assert extra.get("reasoning_content") or extra.get("reasoning"), extra
        assert answer.usage.completion_tokens_details.reasoning_tokens > 0
        details = extra.get("reasoning_details")
        if details:
            back = {"role": "assistant", "content": "hm", "reasoning_details": details}
            user = {"role": "user", "content": "go on"}
            self.chat("", messages=[user, back, user])
            details[0]["signature"] = "sealed"
            raises(openai.BadRequestError, lambda: self.chat("", messages=[user, back, user]))

    def unsupported_fields(self):
        raises(openai.BadRequestError, lambda: self.chat("hello", logprobs=True))
        raises(openai.BadRequestError, lambda: self.chat("hello", n=2))

    def embeddings(self):
        # It asks for packed numbers, and its own strictness does not know them before they are unpacked.
        lenient = self.with_key(self.client.api_key, strict=False)
        answer = lenient.embeddings.create(model=self.model, input=["one", "two"], dimensions=4)
        same([len(item.embedding) for item in answer.data], [4, 4])
        plain = self.client.embeddings.create(
            model=self.model, input=["one", "two"], dimensions=4, encoding_format="float"
        )
        for packed, number in zip(answer.data[0].embedding, plain.data[0].embedding):
            assert abs(packed - number) < 1e-6
        assert answer.usage.total_tokens > 0

    def moderation(self):
        answer = self.client.moderations.create(model=self.model, input=["hello", "refuse this"])
        same([result.flagged for result in answer.results], [False, True])

    def picture(self):
        answer = self.client.images.generate(model=self.model, prompt="a point", n=2)
        same(len(answer.data), 2)
        assert answer.data[0].b64_json and answer.usage.total_tokens > 0

    def speech(self):
        sound = self.client.audio.speech.create(model=self.model, voice="alloy", input="hello").content
        assert sound[:2] == b"\xff\xfb", sound

    def transcription(self):
        file = ("talk.mp3", PICTURE_BYTES, "audio/mpeg")
        answer = self.client.audio.transcriptions.create(model=self.model, file=file)
        assert answer.text.startswith(f"You sent: {len(PICTURE_BYTES)} bytes of talk.mp3"), answer.text
        assert answer.usage.total_tokens > 0
        raises(
            openai.NotFoundError,
            lambda: self.client.audio.transcriptions.create(model="fail-model_not_allowed", file=file),
        )

    def models(self):
        assert [model.id for model in self.client.models.list().data]

    def responses(self):
        make = self.client.responses.create
        answer = make(model=self.model, instructions="be brief", input="hello")
        same((answer.status, answer.output_text), ("completed", "You said: hello"))
        same(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens)
        form = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
        same(json.loads(make(model=self.model, input="hello", text=form).output_text), CITY_MADE)
        content = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}]
        answer = make(model=self.model, input=[{"role": "user", "content": content}])
        same(answer.output_text, f"You said: look {PICTURE_TOLD}")
        answer = make(model=self.model, input="a long story of a river", max_output_tokens=3)
        same((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        same(make(model=self.model, input="refuse this").output[0].content[0].type, "refusal")

    def responses_tool(self):
        tool = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
        make = self.client.responses.create
        first = make(model=self.model, input="what is the weather", tools=[tool], tool_choice="required")
        call = first.output[0]
        same((call.name, json.loads(call.arguments)), ("weather", CITY_MADE))
        items = [{"role": "user", "content": "what is the weather"}]
        items += [item.model_dump(exclude_none=True) for item in first.output]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        same(make(model=self.model, input=items, tools=[tool]).output_text, "The tool said: rain")

    def responses_thought(self):
        tool = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
        make = self.client.responses.create
        include = ["reasoning.encrypted_content"]
        first = make(
            model=self.model, input="call it", tools=[tool], reasoning={"effort": "low"}, include=include,
            store=False,
        )
        assert first.output[0].encrypted_content
        assert first.usage.output_tokens_details.reasoning_tokens > 0
        thought, call = (item.model_dump(exclude_none=True) for item in first.output)
        user = {"role": "user", "content": "call it"}
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        answer = make(model=self.model, input=[user, thought, call, result], tools=[tool])
        same(answer.output_text, "The tool said: rain")
        forged = dict(thought, encrypted_content="sealed")
        for items in ([user, forged, call, result], [user, call, result]):
            raises(openai.BadRequestError, lambda: make(model=self.model, input=items, tools=[tool]))

    def classic(self):
        client = openai.AzureOpenAI(
            api_key=self.client.api_key, azure_endpoint=self.url, api_version="2024-10-21", max_retries=0,
            _strict_response_validation=True,
        )
        messages = [{"role": "user", "content": "hello"}]
        answer = client.chat.completions.create(model="deployment", messages=messages)
        same(answer.choices[0].message.content, "You said: hello")
        same(answer.model, "deployment")
        fails = lambda: client.chat.completions.create(model="fail-rate_limited", messages=messages)
        same(raises(openai.RateLimitError, fails).response.headers["retry-after-ms"], "1500")

    def wrong_key(self):
        self.client, right = self.with_key("sk-nothing-1234567890"), self.client
        try:
            error = raises(openai.AuthenticationError, lambda: self.chat("hello"))
        finally:
            self.client = right
        assert error.status_code == 401

    def unknown_model(self):
        raises(
            openai.BadRequestError if self.provider == "deepseek" else openai.NotFoundError,
            lambda: self.client.chat.completions.create(
                model="no-such-model", messages=[{"role": "user", "content": "hello"}]
            ),
        )

    def limited(self, key):
        client = self.with_key(key)
        call = lambda: client.chat.completions.create(
            model=self.model, messages=[{"role": "user", "content": "hello"}]
        )
        call()
        return raises(openai.RateLimitError, call).response.headers

    def fail(self, failure):
        model = "fail-" + failure["case"]
        if failure["task"] == "responses":
            answer = self.client.responses.create(model=model, input="hello")
            assert answer.status in ("failed", "incomplete"), answer.status
            assert answer.error or answer.incomplete_details
            return
        messages = [{"role": "user", "content": "hello"}]
        call = lambda: self.client.chat.completions.create(model=model, messages=messages)
        if failure["status"] == 200:
            raises(openai.APIResponseValidationError, call)
            return
        default = openai.InternalServerError if failure["status"] >= 500 else openai.APIStatusError
        error = raises(CLASSES.get(failure["status"], default), call)
        same(error.status_code, failure["status"])
