"""The reference model's tokenizer: a token for each digit, sign, word of the prompts, and 汉字."""

import re
import string
from itertools import product
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from attnprobe.tasks.sequences import SequenceSettings, generate, generate_tests
from attnprobe.tasks.styles import STYLES, CoarseReading
from attnprobe.tasks.styles.problem import READINGS
from attnprobe.tasks.styles.wording import LANGUAGES

SPECIAL = ("<pad>", "<s>", "</s>")
SIGNS = "+-*/=(),.;|%"
CHINESE_SIGNS = "，。、；：？！（）【】“”《》"
WORDS = re.compile("[A-Za-z]+")
HAN = re.compile("[一-鿿]")
MAX_TOKENS = 1024


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: BOS before every text, EOS never (training adds it after a target).

    Every piece scores the same, so a text is cut into the fewest pieces: a word or a sign takes
    the space before it along, digits stand alone, and the space before a number is a token of its
    own. What is in no piece is spelled in bytes.
    """
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *_pieces()]
    core = Tokenizer(Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9]|\n"), "isolated")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad,
        model_max_length=MAX_TOKENS, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _pieces() -> list[str]:
    """List printable ASCII, the words of all prompts with and without a space, and 汉字."""
    texts = list(_texts())
    words = sorted({word for text in texts for word in WORDS.findall(text)})
    characters = sorted({character for text in texts for character in HAN.findall(text)})
    printable = [c for c in string.printable if c in "\n\t" or c.isprintable()]
    spaced = [f" {piece}" for piece in [*SIGNS, *words]]
    every = [*printable, *spaced, *words, *CHINESE_SIGNS, *characters]
    return list(dict.fromkeys(every))


def _texts() -> Any:
    """Yield every wording there is: all styles, coarse readings, languages, splits."""
    for language, kind in product(LANGUAGES, READINGS):
        settings = SequenceSettings(
            language=language, styles=tuple(STYLES), n_per_family=1, coarse=CoarseReading(kind)
        )
        for records in (generate(settings.for_split("train")), generate_tests(settings)):
            for record in records:
                yield record.prompt_text + record.target_text
