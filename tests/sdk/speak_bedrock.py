"""The AWS SDK, for Bedrock with one of its keys."""

import json
import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator

from sample import CITY, CITY_MADE, PICTURE_BYTES, PICTURE_TOLD, raises, same

SPEC = {"toolSpec": {"name": "weather", "inputSchema": {"json": CITY}}}
MODEL = "anthropic.claude-sonnet-4-5-20250929-v1:0"


class Speaker:
    def __init__(self, provider, url, key):
        self.provider, self.url = provider, url
        self.client = self.with_key(key)

    def with_key(self, key):
        os.environ["AWS_BEARER_TOKEN_BEDROCK"] = key
        retries = Config(retries={"total_max_attempts": 1})
        client = boto3.session.Session().client("bedrock-runtime", region_name="us-east-1", config=retries)
        # It gives a key to nobody without TLS, so that the address changes only when all is decided.
        client.meta.events.register("before-send", self.lead)
        return client

    def lead(self, request, **_):
        host = request.url.split("/")[2]
        request.url = request.url.replace(f"https://{host}", self.url)

    def chat(self, text, model=MODEL, **more):
        messages = more.pop("messages", None) or [{"role": "user", "content": [{"text": text}]}]
        answer = self.client.converse(modelId=model, messages=messages, **more)
        # The SDK does not check what it reads; its validator of requests does.
        shape = self.client.meta.service_model.operation_model("Converse").output_shape
        whole = {name: value for name, value in answer.items() if name != "ResponseMetadata"}
        report = ParamValidator().validate(whole, shape)
        assert not report.has_errors(), report.generate_report()
        return answer

    def blocks(self, text, **more):
        return self.chat(text, **more)["output"]["message"]["content"]

    def abilities(self):
        return [
            self.plain, self.system, self.image, self.tool_and_result, self.calls_at_once, self.json_schema, self.stop, self.length,
            self.refusal, self.usage, self.thought, self.alternation, self.embeddings, self.wrong_key,
            self.unknown_model,
        ]

    def plain(self):
        answer = self.chat("hello", inferenceConfig={"temperature": 0.5, "maxTokens": 100})
        same(answer["output"]["message"]["content"], [{"text": "You said: hello"}])
        same(answer["stopReason"], "end_turn")

    def system(self):
        same(self.blocks("hello", system=[{"text": "be brief"}]), [{"text": "You said: hello"}])

    def image(self):
        image = {"image": {"format": "png", "source": {"bytes": PICTURE_BYTES}}}
        messages = [{"role": "user", "content": [{"text": "look"}, image]}]
        same(self.blocks("", messages=messages), [{"text": f"You said: look {PICTURE_TOLD}"}])

    def tool_and_result(self):
        first = self.chat("what is the weather", toolConfig={"tools": [SPEC], "toolChoice": {"any": {}}})
        call = first["output"]["message"]["content"][0]["toolUse"]
        same((first["stopReason"], call["name"], call["input"]), ("tool_use", "weather", CITY_MADE))
        result = {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": "rain"}]}}
        user = {"role": "user", "content": [{"text": "what is the weather"}]}
        messages = [user, first["output"]["message"], {"role": "user", "content": [result]}]
        same(self.blocks("", messages=messages, toolConfig={"tools": [SPEC]}), [{"text": "The tool said: rain"}])
        raises(self.client.exceptions.ValidationException, lambda: self.chat("", messages=messages))

    def calls_at_once(self):
        other = {"toolSpec": {**SPEC["toolSpec"], "name": "time"}}
        tools = {"tools": [SPEC, other]}
        first = self.chat("call all of them", toolConfig=tools)["output"]["message"]
        calls = [block["toolUse"] for block in first["content"]]
        same([call["name"] for call in calls], ["weather", "time"])
        results = [
            {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": text}]}}
            for call, text in zip(calls, ("rain", "noon"))
        ]
        user = {"role": "user", "content": [{"text": "call all of them"}]}
        back = lambda results: self.blocks(
            "", messages=[user, first, {"role": "user", "content": results}], toolConfig=tools
        )
        same(back(results), [{"text": "The tool said: rain noon"}])
        raises(self.client.exceptions.ValidationException, lambda: back(results[:1]))

    def json_schema(self):
        schema = {"jsonSchema": {"name": "city", "schema": json.dumps(CITY)}}
        form = {"textFormat": {"type": "json_schema", "structure": schema}}
        same(json.loads(self.blocks("hello", outputConfig=form)[0]["text"]), CITY_MADE)

    def stop(self):
        answer = self.chat("hello there", inferenceConfig={"stopSequences": ["there"]})
        same(answer["stopReason"], "stop_sequence")

    def length(self):
        answer = self.chat("a long story of a river", inferenceConfig={"maxTokens": 3})
        same((answer["stopReason"], answer["usage"]["outputTokens"]), ("max_tokens", 3))

    def refusal(self):
        same(self.chat("refuse this")["stopReason"], "content_filtered")
        guard = {"guardrailIdentifier": "guard", "guardrailVersion": "1"}
        same(self.chat("refuse this", guardrailConfig=guard)["stopReason"], "guardrail_intervened")

    def usage(self):
        usage = self.chat("hello")["usage"]
        same(usage["totalTokens"], usage["inputTokens"] + usage["outputTokens"])
        usage = self.chat("cached words")["usage"]
        assert usage["cacheReadInputTokens"] in (usage["inputTokens"], usage["inputTokens"] - 1), usage

    def thought(self):
        more = {
            "toolConfig": {"tools": [SPEC]},
            "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        }
        thought, call = self.blocks("call it", **more)
        user = {"role": "user", "content": [{"text": "call it"}]}
        result = {"toolResult": {"toolUseId": call["toolUse"]["toolUseId"], "content": [{"text": "rain"}]}}
        result = {"role": "user", "content": [result]}
        back = lambda *blocks: self.blocks(
            "", messages=[user, {"role": "assistant", "content": list(blocks)}, result], **more
        )
        same(back(thought, call)[-1], {"text": "The tool said: rain"})
        text = thought["reasoningContent"]["reasoningText"]["text"]
        forged = {"reasoningContent": {"reasoningText": {"text": text, "signature": "sealed"}}}
        raises(self.client.exceptions.ValidationException, lambda: back(forged, call))
        raises(self.client.exceptions.ValidationException, lambda: back(call))

    def alternation(self):
        user = {"role": "user", "content": [{"text": "hello"}]}
        raises(self.client.exceptions.ValidationException, lambda: self.chat("", messages=[user, user]))

    def embeddings(self):
        body = json.dumps({"inputText": "one", "dimensions": 4})
        answer = self.client.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=body)
        same(len(json.loads(answer["body"].read())["embedding"]), 4)

    def wrong_key(self):
        self.client, right = self.with_key("nothing"), self.client
        try:
            error = raises(ClientError, lambda: self.chat("hello"))
        finally:
            self.client = right
        same(error.response["Error"]["Code"], "UnrecognizedClientException")

    def unknown_model(self):
        raises(self.client.exceptions.ClientError, lambda: self.chat("hello", model="no-such-model"))

    def limited(self, key):
        self.client, right = self.with_key(key), self.client
        try:
            self.chat("hello")
            error = raises(self.client.exceptions.ThrottlingException, lambda: self.chat("hello"))
        finally:
            self.client = right
        return error.response["ResponseMetadata"]["HTTPHeaders"]

    def fail(self, failure):
        call = lambda: self.chat("hello", model="fail-" + failure["case"])
        if failure["status"] == 200:
            raises(Exception, call)
            return
        error = raises(ClientError, call)
        same(error.response["ResponseMetadata"]["HTTPStatusCode"], failure["status"])
        name = error.response["ResponseMetadata"]["HTTPHeaders"]["x-amzn-errortype"].split(":")[0]
        same(error.response["Error"]["Code"], name)
        # The class is one of its own where the service's description knows the name.
        if name in {shape.name for shape in self.client.meta.service_model.error_shapes}:
            same(type(error).__name__, name)
