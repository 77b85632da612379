"""Conversations to tokens and labels, for every plugin that trains the replies of a chat model.

`conversation` checks a row's messages, `chat_format` tries out a tokenizer and its chat template, and
`ChatFormat.encode` makes tokens and labels; `rows` has what turns these into a formatter.
"""

from __future__ import annotations

from ftcore_plugins.common.chat.encoding import ChatFormat, Encoded, Refused, Train
from ftcore_plugins.common.chat.messages import Conversation, Message, conversation
from ftcore_plugins.common.chat.named import (
    BUILT_IN,
    Variables,
    template_option,
    template_path_option,
    template_problems,
    variables_option,
)
from ftcore_plugins.common.chat.trying import chat_format

__all__ = [
    "BUILT_IN",
    "ChatFormat",
    "Conversation",
    "Encoded",
    "Message",
    "Refused",
    "Train",
    "Variables",
    "chat_format",
    "conversation",
    "template_option",
    "template_path_option",
    "template_problems",
    "variables_option",
]
