"""A tokenizer by the conventions of ChatGLM2-6B's and 3's: marks before the prompt, unlisted."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizer
from transformers.utils import PaddingStrategy

MARKS = [
    "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>",
]  # fmt: skip


class SecondTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "vocab.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012

    def __init__(self, vocab_file, padding_side="left", **kwargs):
        self.pieces = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}
        self.marks = {mark: len(self.pieces) + place for place, mark in enumerate(MARKS)}
        super().__init__(padding_side=padding_side, **kwargs)

    @property
    def unk_token(self):
        return "<unk>"

    @property
    def pad_token(self):
        return "<unk>"

    @property
    def pad_token_id(self):
        return 0

    @property
    def eos_token(self):
        return "</s>"

    @property
    def eos_token_id(self):
        return 1

    @property
    def vocab_size(self):
        return len(self.pieces) + len(self.marks)

    def get_vocab(self):
        return self.numbers | self.marks

    def _tokenize(self, text, **kwargs):
        text, found = "▁" + text.replace(" ", "▁"), []
        while text:
            lengths = (n for n in range(min(8, len(text)), 0, -1) if text[:n] in self.numbers)
            length = next(lengths, 0)
            found += [text[:length]] if length else [f"<0x{b:02X}>" for b in text[0].encode()]
            text = text[max(length, 1) :]
        return found

    def _convert_token_to_id(self, token):
        return self.marks.get(token, self.numbers.get(token, 0))

    def _convert_id_to_token(self, index):
        if index >= len(self.pieces) + len(self.marks):
            raise IndexError("piece id is out of range")
        return "" if index < 2 or index >= len(self.pieces) else self.pieces[index]

    def convert_tokens_to_string(self, tokens):
        text = b""
        for piece in tokens:
            text += bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.encode()
        return text.decode(errors="replace").replace("▁", " ").removeprefix(" ")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.marks["[gMASK]"], self.marks["sop"], *token_ids_0, *(token_ids_1 or ())]

    def _pad(
        self, encoded_inputs, max_length=None, padding_strategy=PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of=None, return_attention_mask=None,
    ):  # fmt: skip
        ids = encoded_inputs["input_ids"]
        short = 0
        if padding_strategy == PaddingStrategy.MAX_LENGTH and max_length is not None:
            short = max_length - len(ids)
        encoded_inputs["attention_mask"] = [0] * short + [1] * len(ids)
        encoded_inputs["position_ids"] = [0] * short + list(range(len(ids)))
        encoded_inputs["input_ids"] = [0] * short + ids
        return encoded_inputs
