"""What every model is asked, whatever it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TEXTS = (
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "\tfor (i = 0; i < n; ++i) {\n\t\tx[i] += 0x1F; // 31\n\t}\n",
    "one space,  two,   three, a\ttab,\r\na line\n\nand another \n \n  end  ",
    "Grüße aus Köln, naïve café, Ελληνικά, Привет, 你好世界, こんにちは, नमस्ते, مرحبا, שלום",
    "🙂 👩‍🚀 🇫🇷 é (in two parts) \u200b\u00a0\ufeff",
    "𒀀𓂀𐎠 \x7f \x1b[0m",
    "12345 + 0.678 = ? 2026-11-21 1,000,000 1e-5 ½ ²",
    "It's we'll I'D they've... \"quoted\" — dash -- #hash @at http://example.com/?a=b&c=d",
    "ALLCAPS camelCase snake_case kebab-case ÄÖÜ ﬁ",
    "\n\n\n",
)
"""Code, spaces, tabs, lines, scripts, emoji, digits, contractions; and characters that few vocabularies have, which
are taken apart into bytes. Without the NUL character, which ends a text for programs in C; and none begins with a
space, before which llama.cpp puts another one for Llama 2's kind of tokenizer, and transformers does not."""

QUESTIONS = (
    "What is 2 + 2?",
    "Write a function that adds two numbers.\n\n  And explain it.",
    "Say hello in Greek: γειά",
)
SYSTEM = "You are a careful assistant.\nAnswer briefly."

CONTROL_TOKENS = 48
"""Most control tokens that are asked: Gemma 3 has over 6000, nearly all of them unused."""


def texts(tokenizer: Any) -> Sequence[str]:
    """Texts to take apart, also some with the names of control tokens in them."""
    return (*TEXTS, *(f"before{name}after {name}\n" for name in control_tokens(tokenizer)))


def control_tokens(tokenizer: Any) -> Sequence[str]:
    """The tokens that have a part of their own first, then those that the chat template writes, then the others."""
    added = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items())]
    template = str(tokenizer.chat_template or "")
    roles = [name for name in tokenizer.all_special_tokens if name in added]
    written = [name for name in added if name in template]
    return list(dict.fromkeys([*roles, *written, *added]))[:CONTROL_TOKENS]


def conversations() -> Iterator[Sequence[Mapping[str, str]]]:
    """A question alone, several turns, and the same with a system prompt, which not every template takes."""
    first, second, third = ({"role": "user", "content": text} for text in QUESTIONS)
    system = {"role": "system", "content": SYSTEM}
    answered = {"role": "assistant", "content": "4"}
    yield [first]
    yield [first, answered, second]
    yield [system, third]
    yield [system, first, answered, second]
