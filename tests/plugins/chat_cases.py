"""Random conversations, and what must be trained of them: written apart from the code under test.

Used by `test_chat_fuzz.py` and by `benchmarks/mask_fuzz.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import attrs

from chat_kit import SPECIAL, TEMPLATES, byte_level, sentencepiece, trained_texts, with_tokens
from ftcore_plugins.common.chat import ChatFormat, Encoded, Refused, chat_format, conversation

Messages = list[dict[str, str]]

LOOK_ALIKES = (
    *(
        "assistant",
        "user\n",
        "<|im_start|",
        "|im_end|>",
        "<|eot_id",
        "<|start_header_id |>",
        "< |im_end|>",
        "<|im_end|",
    ),
    *("[INST]", "[/INST] ", "### Response:\n", "\n\n### Instruction:\n", "assistant\n\n", "model\n", "<|IM_END|>"),
    *(
        "{{ bos_token }}",
        "{% generation %}",
        "ftcoreprobe",
        "ftcore0001probe",
        "question",
        "answer",
        "</think>",
        "<think",
    ),
)
UNICODE = (
    "\u00e9e\u0301\u4f60\u597d\U0001f600\U0001f468\u200d\U0001f469\u202e"
    "\u0645\u0631\ufeff\u00a0\u2028\x00\x7f\ufb01\uff1c"
)
WORDS = ("the a is of def return add(a, b) import class x = 1 yes no 12 3.5 it's I'll \"quoted\" \\n {} [] <b>").split()  # noqa: SIM905  # a list of 24 strings reads worse
SPACES = (" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u2003", " \n ")


@attrs.frozen(kw_only=True)
class Family:
    """A tokenizer with its template, and a second rendering of it, in Python.

    `write` gives the whole text (None where a tokenizer adds spaces when it decodes); `end` ends a reply, `inner_end`
    one in the midst of a conversation, if that is another; `parts` says that texts come as lists of parts; `before`
    goes before one (told whether it is the last), `after`
    stands between a reply and its end; `strips` says whether texts are stripped.
    """

    tokenizer: Any
    write: Callable[[Messages], str] | None
    end: str
    inner_end: str = ""
    parts: bool = False
    strips: bool = False
    before: Callable[[bool], str] = lambda _: ""
    after: str = ""
    special: Sequence[str] = SPECIAL


@attrs.frozen(kw_only=True)
class Case:
    """A conversation, and what is trained of it."""

    messages: Messages
    train: str


def families() -> dict[str, Family]:
    """Every template of the kit, and the built-in ones, with tokenizers that merge across words and that do not."""
    made = {name: Family(tokenizer=byte_level(source), **WRITTEN[name]) for name, source in TEMPLATES.items()}
    made["merging"] = Family(tokenizer=byte_level(TEMPLATES["chatml"], regex=False), **WRITTEN["chatml"])
    made["alpaca"] = Family(tokenizer=byte_level(chat_format(byte_level(None), "alpaca").source), **WRITTEN["alpaca"])
    made["inst"] = Family(tokenizer=sentencepiece(), special=("<s>", "</s>", "<unk>", "<0x"), **WRITTEN["inst"])
    return made


def real_families() -> dict[str, Family]:
    """The templates of well-known models, with a tokenizer of single bytes that knows their tokens."""
    sources = templates_of_trl()
    made = {}
    for name, written in REAL.items():
        tokenizer = with_tokens(sources[name].replace('strftime_now("%Y-%m-%d")', "'2024-07-26'"))  # the day of a run
        special = [token.content for token in tokenizer.added_tokens_decoder.values()]
        made[name] = Family(tokenizer=tokenizer, write=None, special=special, **written)
    return made


def templates_of_trl() -> dict[str, str]:
    """The chat templates of some thirty families, as TRL keeps them to recognise models by."""
    folder = files("trl") / "chat_templates"
    return {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".jinja")}


def cases(seed: int, count: int) -> Iterator[Case]:
    """Random conversations; about a third cannot be trained."""
    draw = random.Random(seed)
    for _ in range(count):
        turns = draw.choice((1, 1, 2, 3, 5))
        texts = [_text(draw) for _ in range(2 * turns)]
        for place in range(1, len(texts), 2):
            if draw.random() < 0.1:
                texts[place] = draw.choice(texts)  # a reply that is the question, or another reply
        messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        if draw.random() < 0.4:
            messages.insert(0, {"role": "system", "content": _text(draw)})
        yield Case(messages=messages, train=draw.choice(("all", "all", "last", "everything")))


def _text(draw: random.Random) -> str:
    if draw.random() < 0.03:
        return draw.choice(("", " ", "\n"))
    parts = [_part(draw) for _ in range(draw.choice((1, 2, 4, 9)))]
    return "".join(part + (draw.choice(SPACES) if draw.random() < 0.6 else "") for part in parts)


def _part(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.02:
        return draw.choice(SPECIAL)
    if kind < 0.025:
        return "\ud800"
    if kind < 0.15:
        return draw.choice(LOOK_ALIKES)
    if kind < 0.3:
        return "".join(draw.choice(UNICODE) for _ in range(draw.randint(1, 4)))
    if kind < 0.35:
        return "".join(chr(draw.choice((draw.randint(1, 0xD7FF), draw.randint(0xE000, 0x10FFFF)))) for _ in range(3))
    return draw.choice(WORDS)


def faults(family: Family, formats: dict[str, ChatFormat], drawn: Sequence[Case]) -> Iterator[str]:
    """What is wrong with what the code under test makes of the cases: nothing, if all is well."""
    for train, format_ in formats.items():
        chosen = [case for case in drawn if case.train == train]
        read = [conversation(case.messages, f"case:{place}") for place, case in enumerate(chosen)]
        for case, one, encoded in zip(chosen, read, format_.encode(read), strict=True):
            fault = _refusal_fault(family, case, encoded)
            if not fault and isinstance(encoded, Encoded):
                fault = _fault(family, case, encoded)
            if fault:
                yield f"{fault}\n  {case}\n  {encoded}\n  {one.roles}"


def trained_formats(family: Family) -> dict[str, ChatFormat]:
    """The format under test, once for each choice of what is trained."""
    return {train: chat_format(family.tokenizer, train=train) for train in ("all", "last", "everything")}  # type: ignore[arg-type]


def _refusal_fault(family: Family, case: Case, encoded: Encoded | Refused) -> str:
    texts = [message["content"] for message in case.messages]
    replies = [message["content"] for message in case.messages if message["role"] == "assistant"]
    torn = any("\ud800" <= letter <= "\udfff" for text in texts for letter in text)
    control = any(token in text for text in texts for token in family.special)
    wanted = "not valid unicode" if torn else "contains control tokens" if control else ""
    wanted = wanted or ("empty reply" if not all(reply.strip() for reply in replies) else "")
    reason = encoded.reason if isinstance(encoded, Refused) else ""
    return "" if reason == wanted else f"dropped for {reason!r} instead of {wanted!r}"


def _fault(family: Family, case: Case, encoded: Encoded) -> str:
    """The trained tokens read exactly the replies and their ends, and the model is given what it would be given."""
    replies = _replies(family, case)
    if encoded.replies != tuple(replies):
        return f"the replies should be {replies}"
    ids, labels = list(encoded.input_ids), list(encoded.labels)
    if case.train == "everything":
        return "" if labels == [-100, *ids[1:]] and _ends(family, ids) else "not everything is trained"
    texts = trained_texts(family.tokenizer, ids, labels)
    inner = family.inner_end or family.end
    if texts != [reply + (inner if place else family.end) for place, reply in reversed([*enumerate(replies[::-1])])]:
        return f"trained are {texts}"
    return _given_fault(family, case, ids, labels)


def _replies(family: Family, case: Case) -> list[str]:
    said = [message["content"] for message in case.messages if message["role"] == "assistant"]
    stripped = [reply.strip() if family.strips else reply for reply in said]
    whole = [family.before(place == len(said) - 1) + reply + family.after for place, reply in enumerate(stripped)]
    return whole[-1:] if case.train == "last" else whole


def _ends(family: Family, ids: list[int]) -> bool:
    return bool(ids[-1] == family.tokenizer.convert_tokens_to_ids(family.end))


def _given_fault(family: Family, case: Case, ids: list[int], labels: list[int]) -> str:
    turns = [place for place, message in enumerate(case.messages) if message["role"] == "assistant"]
    trained = turns[-1:] if case.train == "last" else turns
    starts = [place for place, label in enumerate(labels) if label != -100 and labels[place - 1] == -100]
    asked: list[Any] = case.messages[: trained[0]]
    if family.parts:
        asked = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in asked]
    prompt = family.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    if ids[: starts[0]] != prompt:
        return "the prompt of the first reply is not what the model is given in use"
    if family.write and family.write(case.messages) != _decoded(family, ids):
        return f"the row reads {_decoded(family, ids)!r}"
    return ""


def _decoded(family: Family, ids: list[int]) -> str:
    return str(family.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _llama3(messages: Messages) -> str:
    turns = [f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content'].strip()}<|eot_id|>" for m in messages]
    return "<|begin_of_text|>" + "".join(turns)


def _chatml(messages: Messages) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def _gemma(messages: Messages) -> str:
    first = ""
    if messages[0]["role"] == "system":
        first, messages = messages[0]["content"] + "\n\n", messages[1:]
    text = "<bos>"
    for place, m in enumerate(messages):
        role = "model" if m["role"] == "assistant" else "user"
        text += f"<start_of_turn>{role}\n{first if place == 0 else ''}{m['content'].strip()}<end_of_turn>\n"
    return text


def _thinking(messages: Messages) -> str:
    last = messages[-1]["content"]
    return _chatml(messages[:-1]) + f"<|im_start|>assistant\n<think>\n\n</think>\n\n{last}<|im_end|>\n"


def _alpaca(messages: Messages) -> str:
    text = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    if messages[0]["role"] == "system":
        text, messages = messages[0]["content"], messages[1:]
    for m in messages:
        text += "\n\n### Instruction:\n" if m["role"] == "user" else "\n\n### Response:\n"
        text += m["content"] + ("<|end_of_text|>" if m["role"] == "assistant" else "")
    return text


def _in_parts(end: str) -> dict[str, Any]:
    return {"end": end, "parts": True, "before": lambda _: " "}


REAL: dict[str, dict[str, Any]] = {
    "llama3.jinja": {"end": "<|eot_id|>", "strips": True},
    "llama3_1.jinja": {"end": "<|eot_id|>", "strips": True},
    "llama3_training.jinja": {"end": "<|eot_id|>", "strips": True},
    "gemma3.jinja": {"end": "<end_of_turn>", "strips": True},
    "gemma3_training.jinja": {"end": "<end_of_turn>", "strips": True},
    "gptoss.jinja": {
        "end": "<|return|>",
        "inner_end": "<|end|>",
        "before": lambda _: "<|channel|>final<|message|>",
    },
    "idefics3.jinja": _in_parts("<end_of_utterance>"),
    "llava_next.jinja": _in_parts("</s>"),
    "smolvlm.jinja": _in_parts("<end_of_utterance>"),
    "qwen2_5.jinja": {"end": "<|im_end|>"},
    "phi3_5.jinja": {"end": "<|end|>"},
    "lfm2.jinja": {"end": "<|im_end|>"},
}
EMPTY_THOUGHTS = "<think>\n\n</think>\n\n"
WRITTEN: dict[str, dict[str, Any]] = {
    "llama3": {"write": _llama3, "end": "<|eot_id|>", "strips": True},
    "marked": {"write": _llama3, "end": "<|eot_id|>", "strips": True},
    "marked too widely": {"write": _chatml, "end": "<|im_end|>"},
    "chatml": {"write": _chatml, "end": "<|im_end|>"},
    "gemma": {"write": _gemma, "end": "<end_of_turn>", "strips": True},
    "phi": {"write": lambda messages: _chatml(messages) + "<|end_of_text|>", "end": "<|im_end|>"},
    "thinking": {
        "write": _thinking,
        "end": "<|im_end|>",
        "before": lambda last: EMPTY_THOUGHTS if last else "",
    },
    "alpaca": {"write": _alpaca, "end": "<|end_of_text|>"},
    "inst": {"write": None, "end": "</s>", "strips": True, "after": " "},
}
