"""What the SDKs ask beside answers: embeddings, the list of models, counts of tokens."""

import anthropic
import openai
from cells import ANSWERS, GATEWAY, KEY, SYSTEM, VENDORS, run_once
from google import genai
from google.genai import types

openai_client = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY, max_retries=0)
anthropic_client = anthropic.Anthropic(base_url=GATEWAY, api_key=KEY, max_retries=0)
google_client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=GATEWAY, api_version="v1beta"))
VECTOR = next(fixture["response"]["embedding"] for fixture in ANSWERS if "inputText" in fixture["match"])
MODELS = {vendor["model"] for vendor in VENDORS}


def embeddings_base64(cell):
    """The SDK asks for base64 unless told otherwise, and decodes it."""
    for model in ("chat", "gemini"):
        answer = openai_client.embeddings.create(model=model, input=f"[embed] {model}")
        cell.is_equal(f"the vector of {model}", answer.data[0].embedding, VECTOR)


def embeddings_float(cell):
    for model in ("chat", "gemini"):
        texts = ["[embed] one", "[embed] two"]
        answer = openai_client.embeddings.create(model=model, input=texts, encoding_format="float")
        cell.is_equal(f"the vectors of {model}", [row.embedding for row in answer.data], [VECTOR, VECTOR])
        cell.is_equal(f"the places of {model}", [row.index for row in answer.data], [0, 1])


def embeddings_of_tokens(cell):
    answer = openai_client.embeddings.create(model="chat", input=[[1, 2, 3], [4, 5]])
    cell.is_equal("vectors", len(answer.data), 2)


def embeddings_of_nobody(cell):
    create = openai_client.embeddings.create
    cell.fails(lambda: create(model="converse", input="[embed]"), openai.BadRequestError, 400)
    # No other vendor can read another vendor's tokens.
    cell.fails(lambda: create(model="gemini", input=[[1, 2, 3]]), openai.BadRequestError, 400)


def models_openai(cell):
    cell.is_equal("the list", {model.id for model in openai_client.models.list()}, MODELS)
    cell.is_equal("one", openai_client.models.retrieve("chat").id, "chat")
    cell.fails(lambda: openai_client.models.retrieve("nobody"), openai.NotFoundError, 404)


def models_anthropic(cell):
    cell.is_equal("the list", {model.id for model in anthropic_client.models.list()}, MODELS)
    cell.is_equal("one", anthropic_client.models.retrieve("messages").id, "messages")
    cell.fails(lambda: anthropic_client.models.retrieve("nobody"), anthropic.NotFoundError, 404)


def models_google(cell):
    names = {model.name for model in google_client.models.list()}
    cell.is_equal("the list", names, {f"models/{model}" for model in MODELS})


def count_tokens_anthropic(cell):
    """Every vendor of another format is answered by the gateway's own estimate."""
    for model in sorted(MODELS - {"messages"}):
        messages = [{"role": "user", "content": "How many tokens are these words?"}]
        counted = anthropic_client.messages.count_tokens(model=model, system=SYSTEM, messages=messages)
        cell.is_true(f"{model} counts {counted.input_tokens}", 4 <= counted.input_tokens <= 40)


def count_tokens_google(cell):
    for model in sorted(MODELS - {"gemini"}):
        counted = google_client.models.count_tokens(model=model, contents="How many tokens are these words?")
        cell.is_true(f"{model} counts {counted.total_tokens}", 4 <= counted.total_tokens <= 40)


run_once("catalogue", [
    embeddings_base64, embeddings_float, embeddings_of_tokens, embeddings_of_nobody,
    models_openai, models_anthropic, models_google, count_tokens_anthropic, count_tokens_google,
])
