"""Asks through the official SDKs, as told on standard input: a line of JSON in, a line of JSON out.

In:  api, base_url, model, prompt, stream, retries; optionally tokens: read so many, then go away.
Out: text, status, headers, whether the proper end came, and of an error what its handler sees.
"""

import json
import sys

import anthropic
import openai

TIMEOUT_SECONDS = 30


def openai_events(question):
    client = openai.OpenAI(
        api_key="sk-of-the-caller",
        base_url=question["base_url"],
        max_retries=question["retries"],
        timeout=TIMEOUT_SECONDS,
    )
    raw = client.chat.completions.with_raw_response.create(
        model=question["model"],
        messages=[{"role": "user", "content": question["prompt"]}],
        stream=question["stream"],
        temperature=0.7,
        seed=12345678901234567,
    )
    yield "head", raw
    answer = raw.parse()
    if question["stream"]:
        yield "stream", answer
        for chunk in answer:
            for choice in chunk.choices:
                if choice.delta.content:
                    yield "text", choice.delta.content
                if choice.finish_reason:
                    yield "finished", None
    else:
        yield "text", answer.choices[0].message.content
        yield "finished", None


def anthropic_events(question):
    client = anthropic.Anthropic(
        api_key="sk-of-the-caller",
        base_url=question["base_url"].removesuffix("/v1"),
        max_retries=question["retries"],
        timeout=TIMEOUT_SECONDS,
    )
    raw = client.messages.with_raw_response.create(
        model=question["model"],
        max_tokens=64,
        messages=[{"role": "user", "content": question["prompt"]}],
        stream=question["stream"],
        extra_body={"some_new_field": 1.10},
    )
    yield "head", raw
    answer = raw.parse()
    if question["stream"]:
        yield "stream", answer
        for event in answer:
            if event.type == "content_block_delta":
                yield "text", event.delta.text
            elif event.type == "message_stop":
                yield "finished", None
    else:
        yield "text", answer.content[0].text
        yield "finished", None


def text(response):
    try:
        return response.text
    except Exception:  # None, or of a stream that broke off before it was read.
        return None


def ask(question):
    answer = {"text": "", "status": None, "headers": {}, "finished": False, "error": None}
    tokens = 0
    stream = None
    try:
        events = {"openai": openai_events, "anthropic": anthropic_events}[question["api"]]
        for kind, value in events(question):
            if kind == "head":
                answer["status"] = value.http_response.status_code
                answer["headers"] = dict(value.headers)
            elif kind == "stream":
                stream = value
            elif kind == "text":
                answer["text"] += value
                tokens += 1
                if tokens == question.get("tokens"):
                    stream.close()
                    break
            else:
                answer["finished"] = True
    except Exception as error:  # Whatever the SDK raises is what its user sees.
        response = getattr(error, "response", None)
        answer["error"] = {
            "sdk": type(error).__module__.split(".")[0],
            "status": getattr(error, "status_code", None),
            "body": text(response),
            "headers": dict(response.headers) if response is not None else {},
        }
    return answer


for line in sys.stdin:
    print(json.dumps(ask(json.loads(line))), flush=True)
