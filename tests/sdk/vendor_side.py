"""What must be in the requests that vendors were sent, whatever format the client spoke: the image, the schema, the tools."""

import json
import re
from pathlib import Path

REQUEST = json.loads((Path(__file__).parent / "fixtures" / "request.json").read_text())


def faults(vendor, feature, requests):
    """What is wrong with the requests, path and body, that one cell made of a vendor."""
    if not requests:
        return ["the vendor was not asked"]
    found = []
    for path, body in requests:
        try:
            found += faults_of(vendor, feature, path, json.loads(body))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            found.append(f"the vendor was sent what nobody understands ({error!r}): {body.decode()}")
    if feature == "cut_rescued":
        asked = [model_of(path, json.loads(body)) for path, body in requests]
        both = [f"{vendor}-model", f"{vendor}-model-2"]
        found += [] if asked == both * (len(asked) // 2) else [f"the targets were asked for {asked}"]
    return found


def faults_of(vendor, feature, path, body):
    name, model = api(path), model_of(path, body)
    found = [] if model.startswith(f"{vendor}-model") else [f"the vendor was asked for {model}"]
    look = {"text": system, "image": image, "json_schema": schema, "tool_round_trip": tools, "parallel_tools": tools}.get(feature)
    fault = look(name, body) if look else None
    return found + [fault] if fault else found


def model_of(path, body):
    return body["model"] if api(path) in ("chat", "responses", "messages") else re.split("[:/]", path.split("/model")[1].lstrip("s/"))[0]


def system(name, body):
    """The system prompt, in its own place or in the first message."""
    places = {"chat": "messages", "responses": "instructions", "gemini": "systemInstruction"}
    place = body.get(places.get(name, "system")) or body.get("input")
    is_there = REQUEST["system"] in json.dumps(place[0] if isinstance(place, list) else place)
    return None if is_there else f"the vendor was sent the system prompt {place}"


def api(path):
    path = path.split("?")[0]
    for end, name in [
        ("/chat/completions", "chat"),
        ("/responses", "responses"),
        ("/messages", "messages"),
        ("enerateContent", "gemini"),
        ("/converse", "converse"),
        ("/converse-stream", "converse"),
    ]:
        if path.endswith(end):
            return name
    raise ValueError(path)


def blocks(name, body):
    """The parts of all messages."""
    key, parts = {"gemini": ("contents", "parts"), "responses": ("input", "content")}.get(name, ("messages", "content"))
    contents = [message.get(parts) for message in body[key]]
    return [block for content in contents if isinstance(content, list) for block in content]


def image(name, body):
    found = [image_of(name, block) for block in blocks(name, body)]
    found = [picture for picture in found if picture]
    expected = ("image/png", REQUEST["image"])
    return None if found == [expected] else f"the vendor was sent the images {found}"


def image_of(name, block):
    """The type and base64 of a part that is an image."""
    url = None
    if name == "chat":
        url = block.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
    elif name == "responses":
        url = block.get("image_url")
    elif name == "messages" and block.get("type") == "image":
        return block["source"]["media_type"], block["source"]["data"]
    elif name == "gemini":
        data = block.get("inlineData") or block.get("inline_data")
        # Google's own SDK writes the alphabet of URLs.
        plain = data and data["data"].replace("-", "+").replace("_", "/")
        return data and (data.get("mimeType") or data.get("mime_type"), plain)
    elif name == "converse" and "image" in block:
        return "image/" + block["image"]["format"], block["image"]["source"]["bytes"]
    if url:
        kind, data = url.removeprefix("data:").split(";base64,")
        return kind, data
    return None


def schema(name, body):
    found = schema_of(name, body)
    if not found:
        return "the vendor was not sent the schema"
    return compared(found, REQUEST["schema"])


def schema_of(name, body):
    if name == "chat":
        return body.get("response_format", {}).get("json_schema", {}).get("schema")
    if name == "responses":
        return body.get("text", {}).get("format", {}).get("schema")
    if name == "messages":
        # The older place of it is that of clients of this format, whose bytes pass through.
        output = body.get("output_config") or {}
        return (output.get("format") or body.get("output_format") or {}).get("schema")
    if name == "gemini":
        config = body["generationConfig"]
        if config.get("responseMimeType") != "application/json":
            return None
        return config.get("responseJsonSchema") or config.get("responseSchema")
    text = body.get("outputConfig", {}).get("textFormat", {})
    return json.loads(text.get("structure", {}).get("jsonSchema", {}).get("schema", "null"))


def compared(found, expected):
    """Whether a schema asks for what the expected one does; SDKs add titles, Google's writes types in
    capitals, Anthropic's leaves out that of an enumeration."""
    simple = {name: rule["type"] for name, rule in expected["properties"].items()}
    there = {name: rule.get("type", "string").lower() for name, rule in found.get("properties", {}).items()}
    enums = [rule.get("enum") for rule in expected["properties"].values()]
    there_enums = [rule.get("enum") for rule in found.get("properties", {}).values()]
    is_same = simple == there and enums == there_enums and sorted(found.get("required", [])) == sorted(expected["required"])
    return None if is_same else f"the vendor was sent the schema {json.dumps(found)}"


def tools(name, body):
    found = tools_of(name, body)
    for tool in REQUEST["tools"]:
        if tool["name"] not in found:
            return f"the vendor was sent the tools {list(found)}"
        if fault := compared(found[tool["name"]], tool["parameters"]):
            return fault
    return None


def tools_of(name, body):
    """Name and parameters of all tools."""
    if name == "chat":
        return {tool["function"]["name"]: tool["function"]["parameters"] for tool in body["tools"]}
    if name == "responses":
        return {tool["name"]: tool["parameters"] for tool in body["tools"]}
    if name == "messages":
        return {tool["name"]: tool["input_schema"] for tool in body["tools"]}
    if name == "gemini":
        declared = [function for tool in body["tools"] for function in tool["functionDeclarations"]]
        # Google takes both spellings of every field, and its SDK writes this one so.
        names = ("parametersJsonSchema", "parameters_json_schema", "parameters")
        return {tool["name"]: next(tool[name] for name in names if name in tool) for tool in declared}
    specs = [tool["toolSpec"] for tool in body["toolConfig"]["tools"]]
    return {tool["name"]: tool["inputSchema"]["json"] for tool in specs}
