"""Records in tokens: prompts, targets and what a model wrote, each token in exactly one span.

`encode` tokenizes prompt and target together; `encode_prompt` the prompt alone, for a model to go
on from; `encode_generated` adds the tokens that it wrote, with the roles that the record's style
reads out of them.
"""

from attnprobe.encode.foils import foil_ids
from attnprobe.encode.generated import encode_generated, text_with_offsets
from attnprobe.encode.marks import framed, turn_ends
from attnprobe.encode.prefix import with_prefix
from attnprobe.encode.records import encode, encode_prompt
from attnprobe.encode.tokens import SPECIAL, TEMPLATE, readable_texts

__all__ = [
    "SPECIAL", "TEMPLATE", "encode", "encode_generated", "encode_prompt", "foil_ids", "framed",
    "readable_texts", "text_with_offsets", "turn_ends", "with_prefix",
]  # fmt: skip
