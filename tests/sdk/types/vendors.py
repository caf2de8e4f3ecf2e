"""Types of the vendors' own SDKs, each as a function that says what is wrong with a body."""

import base64
import inspect
import json
import re
import typing

# The SDKs' requests say Iterable where JSON has a list, and pydantic looks into an Iterable only when it is read.
typing.Iterable = typing.List

import botocore.session
import botocore.validate
import cohere.types
import cohere.v2.client
import cohere.v2.types
import ollama
import openai.types
import openai.types.chat
import openai.types.responses
import pydantic
from anthropic.types import Message as AnthropicMessage
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as AnthropicRequest
from google.genai import types as google
from mistralai.client import models as mistral
from openai.types import embedding_create_params, image_generate_params, moderation_create_params
from openai.types.audio import speech_create_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params


def strays(given, read, path=""):
    """What was given and is in no field of what was read."""
    if isinstance(given, dict):
        if type(read).__name__.startswith("Unknown"):
            return [f"{path or '.'} is of no known kind"]
        found = []
        for key, value in given.items():
            here = f"{path}.{key}"
            if isinstance(read, pydantic.BaseModel):
                fields = type(read).model_fields
                named = {field.alias or name: name for name, field in fields.items()} | {name: name for name in fields}
                if key not in named and "__pydantic_extra__" in vars(type(read)).get("__annotations__", {}):
                    # The vendor says that there may be more.
                    continue
                if key not in named:
                    found.append(f"{here} is no field of {type(read).__name__}")
                    continue
                found += strays(value, getattr(read, named[key]), here)
            elif isinstance(read, dict):
                if key not in read:
                    found.append(f"{here} is no field")
                    continue
                found += strays(value, read[key], here)
        return found
    if isinstance(given, list) and isinstance(read, (list, tuple)):
        return [stray for at, pair in enumerate(zip(given, read)) for stray in strays(*pair, f"{path}[{at}]")]
    return []


def checked(validate, given, closed=True):
    """Problems of `given`, which is JSON; with `closed`, fields that nobody declared are among them."""
    try:
        read = validate(given)
    except (pydantic.ValidationError, ValueError, TypeError) as error:
        return [str(error)]
    return strays(given, read) if closed else []


def typed(kind, given, closed=True):
    return checked(pydantic.TypeAdapter(kind).validate_python, given, closed)


def model(kind, given, closed=True, strict=None):
    return checked(lambda given: kind.model_validate_json(json.dumps(given), strict=strict), given, closed)


# OpenAI


def openai_chat(body, closed=True):
    return typed(completion_create_params.CompletionCreateParamsNonStreaming, body, closed)


def openai_responses(body):
    return typed(response_create_params.ResponseCreateParamsNonStreaming, body)


def openai_completion(body):
    """Strictly: each declared field and every literal, but beside them what is the provider's own."""
    return model(openai.types.chat.ChatCompletion, body, closed=False, strict=True)


def openai_response(body):
    return model(openai.types.responses.Response, body)


def openai_embeddings(body):
    body = json.loads(json.dumps(body))
    for item in body.get("data", []):
        # The SDK decodes base64 before it looks.
        if isinstance(item["embedding"], str):
            packed = base64.b64decode(item["embedding"], validate=True)
            if len(packed) % 4:
                return ["base64 of no whole number of 32-bit floats"]
            item["embedding"] = [0.0] * (len(packed) // 4)
    # Null is what the provider does not tell; the SDK itself takes it.
    if "usage" in body and body["usage"] is None:
        body["usage"] = {"prompt_tokens": 0, "total_tokens": 0}
    return model(openai.types.CreateEmbeddingResponse, body, closed=False, strict=True)


def openai_moderations(body):
    """But for the names of categories, which are the provider's own."""
    body = json.loads(json.dumps(body))
    names = [field.alias or name for name, field in openai.types.moderation.Categories.model_fields.items()]
    for result in body.get("results", []):
        if not all(isinstance(hit, bool) for hit in result["categories"].values()):
            return ["a category is neither true nor false"]
        result["categories"] = dict.fromkeys(names, False)
        result["category_scores"] = dict.fromkeys(names, 0.0)
        result.setdefault("category_applied_input_types", dict.fromkeys(names, []))
    return model(openai.types.ModerationCreateResponse, body, closed=False, strict=True)


OPENAI_KINDS = {
    "/embeddings": embedding_create_params.EmbeddingCreateParams,
    "/moderations": moderation_create_params.ModerationCreateParams,
    "/images/generations": image_generate_params.ImageGenerateParamsNonStreaming,
    "/audio/speech": speech_create_params.SpeechCreateParams,
    "/responses": response_create_params.ResponseCreateParamsNonStreaming,
}


# Anthropic

SAMPLING_OF_2023 = {"temperature", "top_p", "top_k"}

def anthropic_request(body):
    return typed(AnthropicRequest, body)


def anthropic_2023_request(body):
    """The older version of the API has ways to sample that the SDK's types dropped with the newer one."""
    return anthropic_request({name: value for name, value in body.items() if name not in SAMPLING_OF_2023})


def vertex_claude_request(body):
    """The same, but the model stands in the address and the version in the body."""
    assert "model" not in body and body["anthropic_version"], body
    rest = {name: value for name, value in body.items() if name != "anthropic_version"}
    return anthropic_request({"model": "in-the-address", **rest})


def anthropic_answer(body):
    return model(AnthropicMessage, body)


# Google


def gemini_request(body):
    parts = {
        "contents": list[google.Content],
        "systemInstruction": google.Content,
        "tools": list[google.Tool],
        "toolConfig": google.ToolConfig,
        "revisionConfig": google.RevisionConfig,
    }
    unknown = [f"{name} is no field" for name in body if name not in parts]
    for name, value in body.items():
        adapter = pydantic.TypeAdapter(parts.get(name, object))
        unknown += checked(lambda given: adapter.validate_json(json.dumps(given)), value)
    return unknown


def gemini_embed(body):
    problems = []
    for request in body["requests"]:
        problems += model(google.Content, request["content"])
        config = {name: value for name, value in request.items() if name not in ("model", "content")}
        problems += model(google.EmbedContentConfig, config)
    return problems


def gemini_answer(body):
    return model(google.GenerateContentResponse, body)


# Mistral


def mistral_request(body):
    return model(mistral.ChatCompletionRequest, body)


def mistral_embed(body):
    return model(mistral.EmbeddingRequest, body)


def mistral_answer(body):
    return model(mistral.ChatCompletionResponse, body)


# Cohere


def call_of(method, body, kinds):
    """A body as the arguments of a method, whose annotations are the types."""
    known = inspect.signature(method).parameters
    problems = [f"{name} is no argument" for name in body if name not in known and name != "stream"]
    for name, value in body.items():
        if name in kinds:
            problems += typed(kinds[name], value)
    return problems


def cohere_request(body):
    kinds = {
        "messages": list[cohere.types.ChatMessageV2],
        "tools": list[cohere.types.ToolV2],
        "response_format": cohere.types.ResponseFormatV2,
        "thinking": cohere.types.Thinking,
        "tool_choice": typing.Literal["REQUIRED", "NONE"],
        "max_tokens": int,
        "temperature": float,
        "seed": int,
        "k": int,
        "p": float,
        "stop_sequences": list[str],
        "strict_tools": bool,
    }
    return call_of(cohere.v2.client.V2Client.chat, body, kinds)


def cohere_embed(body):
    kinds = {
        "input_type": typing.Literal["search_document", "search_query", "classification", "clustering", "image"],
        "texts": list[str],
        "embedding_types": list[typing.Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]],
        "truncate": typing.Literal["NONE", "START", "END"],
        "output_dimension": int,
    }
    return call_of(cohere.v2.client.V2Client.embed, body, kinds)


def cohere_rerank(body):
    return call_of(cohere.v2.client.V2Client.rerank, body, {"query": str, "documents": list[str], "top_n": int})


def cohere_answer(body):
    return model(cohere.v2.types.V2ChatResponse, body)


# Bedrock

CONVERSE = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse")


def as_botocore(value, shape):
    """JSON as botocore takes it: bytes where the wire has base64."""
    if shape.type_name == "blob":
        return base64.b64decode(value, validate=True)
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False) and isinstance(value, dict):
        return {name: as_botocore(part, shape.members[name]) if name in shape.members else part for name, part in value.items()}
    if shape.type_name == "list":
        return [as_botocore(item, shape.member) for item in value]
    return value


def beyond(value, shape, path=""):
    """What botocore leaves to the service: enumerations, patterns, lengths, and fields that it does not know."""
    if shape.type_name == "structure" and not getattr(shape, "is_document_type", False):
        problems = [f"{path}.{name} is no field" for name in value if name not in shape.members]
        known = [(name, part) for name, part in value.items() if name in shape.members]
        return problems + [one for name, part in known for one in beyond(part, shape.members[name], f"{path}.{name}")]
    if shape.type_name == "list":
        return [one for at, item in enumerate(value) for one in beyond(item, shape.member, f"{path}[{at}]")]
    if shape.type_name != "string":
        return []
    rules = shape.metadata
    problems = []
    if rules.get("enum") and value not in rules["enum"]:
        problems.append(f"{path}: {value!r} is none of {rules['enum']}")
    if rules.get("pattern") and not re.fullmatch(rules["pattern"], value, re.DOTALL):
        problems.append(f"{path}: {value!r} is not as {rules['pattern']}")
    if not rules.get("min", 0) <= len(value) <= rules.get("max", len(value)):
        problems.append(f"{path} has {len(value)} characters")
    return problems


def shaped(body, shape):
    try:
        params = as_botocore(body, shape)
    except (ValueError, TypeError) as error:
        return [str(error)]
    report = botocore.validate.ParamValidator().validate(params, shape)
    # What has the wrong shape altogether cannot be looked into.
    return [report.generate_report()] if report.has_errors() else beyond(body, shape)


def bedrock_request(body):
    return shaped({"modelId": "model", **body}, CONVERSE.input_shape)


def bedrock_answer(body):
    return shaped(body, CONVERSE.output_shape)


# Ollama


def ollama_request(body):
    body = json.loads(json.dumps(body))
    problems = model(ollama._types.Options, body.get("options", {}))
    # A request of the SDK takes any mapping for a message; what it knows of one is told by `Message`.
    for message in body["messages"] if isinstance(body["messages"], list) else []:
        if "images" in message:
            message["images"] = [{"value": image} for image in message["images"]]
        problems += model(ollama._types.Message, message)
    problems += model(ollama._types.ChatRequest, {**body, "tools": None} if "tools" in body else body)
    # Its `Tool` rewrites schemas; a tool is held to what both have.
    for tool in body.get("tools", []):
        problems += model(ollama._types.Tool, tool, closed=False)
    return problems


def ollama_embed(body):
    return model(ollama._types.EmbedRequest, body)


def ollama_answer(body):
    return model(ollama._types.ChatResponse, body, closed=False)
