"""The Serf delegate, protocol 5: tags, intents, user events, queries, coordinates on top of membership."""

from .delegate import Serf, SharedPart
from .tags import decode_tags, encode_tags, is_sora

__all__ = ["Serf", "SharedPart", "decode_tags", "encode_tags", "is_sora"]
