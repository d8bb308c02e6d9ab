"""What a client may send: one model for each body, and how bodies are read."""

from treadle.deploy.http.asked.base import AskedBody
from treadle.deploy.http.asked.chat import (
    AllowedTools,
    AskedChat,
    Message,
    NamedTool,
    ResponseFormat,
    Tool,
)
from treadle.deploy.http.asked.generation import AskedCompletion, AskedGeneration
from treadle.deploy.http.asked.lists import IGNORED, REFUSED
from treadle.deploy.http.asked.messages import AskedCount, AskedMessages
from treadle.deploy.http.asked.plain import (
    AskedDetokenize,
    AskedEmbedding,
    AskedScore,
    AskedTokenize,
)
from treadle.deploy.http.asked.reading import parse
from treadle.deploy.http.asked.responses import AskedResponse

__all__ = [
    "IGNORED",
    "REFUSED",
    "AllowedTools",
    "AskedBody",
    "AskedChat",
    "AskedCompletion",
    "AskedCount",
    "AskedDetokenize",
    "AskedEmbedding",
    "AskedGeneration",
    "AskedMessages",
    "AskedResponse",
    "AskedScore",
    "AskedTokenize",
    "Message",
    "NamedTool",
    "ResponseFormat",
    "Tool",
    "parse",
]
