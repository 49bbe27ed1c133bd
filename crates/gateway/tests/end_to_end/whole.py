"""Asks through the official SDKs, as told on standard input: a line of JSON in, a line of JSON out.

In:  api, base_url, key, model, prompt, stream.
Out: what the SDK makes of the whole answer (text, tool calls, usage, finish), and its headers.
"""

import json
import sys

import anthropic
import openai


def openai_answer(question):
    client = openai.OpenAI(
        api_key=question["key"], base_url=question["base_url"], max_retries=0, timeout=30
    )
    raw = client.chat.completions.with_raw_response.create(
        model=question["model"],
        messages=[{"role": "user", "content": question["prompt"]}],
        stream=question["stream"],
        **({"stream_options": {"include_usage": True}} if question["stream"] else {}),
    )
    answer = raw.parse()
    if not question["stream"]:
        choice = answer.choices[0]
        calls = [
            [call.id, call.function.name, call.function.arguments]
            for call in choice.message.tool_calls or []
        ]
        text, finish, usage = choice.message.content, choice.finish_reason, answer.usage
    else:
        text, finish, usage, calls = None, None, None, []
        for chunk in answer:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if choice.delta.content:
                    text = (text or "") + choice.delta.content
                for call in choice.delta.tool_calls or []:
                    if call.index == len(calls):
                        calls.append([call.id, call.function.name, ""])
                    calls[call.index][2] += call.function.arguments or ""
                finish = choice.finish_reason or finish
    usage = usage and [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
    return raw, {"text": text, "calls": calls, "finish": finish, "usage": usage}


def anthropic_answer(question):
    client = anthropic.Anthropic(
        api_key=question["key"],
        base_url=question["base_url"].removesuffix("/v1"),
        max_retries=0,
        timeout=30,
    )
    asked = {
        "model": question["model"],
        "max_tokens": 64,
        "messages": [{"role": "user", "content": question["prompt"]}],
    }
    raw = None
    if question["stream"]:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
            raw = stream.response
    else:
        response = client.messages.with_raw_response.create(**asked)
        message, raw = response.parse(), response.http_response
    return raw, {
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "calls": [
            [block.id, block.name, block.input]
            for block in message.content
            if block.type == "tool_use"
        ],
        "finish": message.stop_reason,
        "usage": [message.usage.input_tokens, message.usage.output_tokens],
    }


for line in sys.stdin:
    question = json.loads(line)
    try:
        ask = {"openai": openai_answer, "anthropic": anthropic_answer}[question["api"]]
        raw, answer = ask(question)
        answer["headers"] = dict(raw.headers)
    except Exception as error:  # Whatever the SDK raises is what its user sees.
        answer = {"error": str(type(error)), "status": getattr(error, "status_code", None)}
    print(json.dumps(answer), flush=True)
