"""AWS's Python SDK, Bedrock Converse. It signs its requests; the gateway key is the id of the access key."""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from cells import GATEWAY, IMAGE_BYTES, KEY, SCHEMA, SYSTEM, TOOLS, run


def client_with(key):
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=GATEWAY,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key="unused",
        config=Config(retries={"total_max_attempts": 1}),
    )


client = client_with(KEY)
specs = [
    {"toolSpec": {"name": tool["name"], "description": tool["description"], "inputSchema": {"json": tool["parameters"]}}}
    for tool in TOOLS
]


def asked(cell, content=None, **more):
    messages = [{"role": "user", "content": content or [{"text": cell.prompt}]}]
    system, limits = [{"text": SYSTEM}], {"maxTokens": 1000}
    return {"modelId": cell.model, "messages": messages, "system": system, "inferenceConfig": limits, **more}


def ask(cell, content=None, **more):
    return client.converse(**asked(cell, content, **more))


def ask_stream(cell, **more):
    return client.converse_stream(**asked(cell, **more))["stream"]


def said(content):
    return "".join(block.get("text", "") for block in content)


def text(cell):
    answer = ask(cell)
    cell.is_text(said(answer["output"]["message"]["content"]))
    cell.is_true(f"stopReason is {answer['stopReason']}", answer["stopReason"] in ("end_turn", "max_tokens"))


def pieces_of(events):
    for event in events:
        piece = event.get("contentBlockDelta", {}).get("delta", {}).get("text")
        if piece:
            yield piece


def stream(cell):
    events = list(ask_stream(cell))
    cell.is_stream(list(pieces_of(events)))
    ends = [event["messageStop"]["stopReason"] for event in events if "messageStop" in event]
    cell.is_true(f"the ends are {ends}", ends in (["end_turn"], ["max_tokens"]))


def called(content):
    calls = [block["toolUse"] for block in content if "toolUse" in block]
    return [(call["toolUseId"], call["name"], call["input"]) for call in calls]


def final(cell, content):
    results = [
        {"toolResult": {"toolUseId": call_id, "content": [{"text": cell.result(name)}]}} for call_id, name, _ in called(content)
    ]
    messages = [
        {"role": "user", "content": [{"text": cell.prompt}]},
        {"role": "assistant", "content": content},
        {"role": "user", "content": results},
    ]
    content = ask(cell, messages=messages, toolConfig={"tools": specs})["output"]["message"]["content"]
    cell.is_final(said(content), called(content))


def tool_round_trip(cell):
    answer = ask(cell, toolConfig={"tools": specs, "toolChoice": {"any": {}}})
    content = answer["output"]["message"]["content"]
    cell.is_calls(called(content))
    cell.is_equal("stopReason", answer["stopReason"], "tool_use")
    final(cell, content)


def collected(events):
    """The blocks of a streamed message."""
    blocks = {}
    for event in events:
        if "contentBlockStart" in event:
            start = event["contentBlockStart"]["start"]
            blocks[event["contentBlockStart"]["contentBlockIndex"]] = {"toolUse": {**start["toolUse"], "input": ""}}
        elif "contentBlockDelta" in event:
            at, delta = event["contentBlockDelta"]["contentBlockIndex"], event["contentBlockDelta"]["delta"]
            if "text" in delta:
                blocks.setdefault(at, {"text": ""})["text"] += delta["text"]
            else:
                blocks[at]["toolUse"]["input"] += delta["toolUse"]["input"]
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"])
    return [blocks[at] for at in sorted(blocks)]


def parallel_tools(cell):
    content = collected(ask_stream(cell, toolConfig={"tools": specs, "toolChoice": {"any": {}}}))
    cell.is_calls(called(content))
    final(cell, content)


def image(cell):
    picture = {"image": {"format": "png", "source": {"bytes": IMAGE_BYTES}}}
    cell.is_text(said(ask(cell, [picture, {"text": cell.prompt}])["output"]["message"]["content"]))


def json_schema(cell):
    schema = {"jsonSchema": {"name": "verdict", "schema": json.dumps(SCHEMA)}}
    answer = ask(cell, outputConfig={"textFormat": {"type": "json_schema", "structure": schema}})
    cell.is_verdict(json.loads(said(answer["output"]["message"]["content"])))


def usage(cell):
    def compare(usage):
        cached = usage.get("cacheReadInputTokens", 0)
        cell.is_usage(usage["inputTokens"], usage["outputTokens"], usage["totalTokens"], cached)

    compare(ask(cell)["usage"])
    streamed = [event["metadata"]["usage"] for event in ask_stream(cell) if "metadata" in event]
    cell.is_equal("events with usage", len(streamed), 1)
    compare(streamed[0])


def error(cell):
    kinds = client.exceptions
    cell.fails(lambda: ask(cell), kinds.ValidationException, 400, cell.complaint)
    cell.fails(lambda: list(ask_stream(cell)), kinds.ValidationException, 400, cell.complaint)
    cell.fails(lambda: ask(cell, modelId="nobody"), kinds.ResourceNotFoundException, 404, "nobody")
    cell.fails(lambda: client_with("wrong").converse(**asked(cell)), ClientError)


def cut(cell):
    cell.breaks(pieces_of(ask_stream(cell)), EventStreamError)


def cut_early(cell):
    cell.fails_early(lambda: list(ask_stream(cell)), ClientError)


run("boto3", "converse", [text, stream, tool_round_trip, parallel_tools, image, json_schema, usage, error, cut, cut_early])
