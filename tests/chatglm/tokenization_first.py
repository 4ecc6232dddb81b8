"""A tokenizer by the conventions of ChatGLM-6B's: marks after the prompt, a mask of its own."""

import json
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizer
from transformers.utils import PaddingStrategy


class FirstTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "vocab.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012

    def __init__(
        self, vocab_file, bos_token="<sop>", eos_token="<eop>", mask_token="[MASK]",
        gmask_token="[gMASK]", pad_token="<pad>", unk_token="<unk>", padding_side="left",
        **kwargs,
    ):  # fmt: skip
        self.pieces = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self.numbers = {piece: number for number, piece in enumerate(self.pieces)}
        super().__init__(
            bos_token=bos_token, eos_token=eos_token, mask_token=mask_token, pad_token=pad_token,
            gmask_token=gmask_token, unk_token=unk_token, padding_side=padding_side, **kwargs,
        )  # fmt: skip

    @property
    def vocab_size(self):
        return len(self.pieces)

    def get_vocab(self):
        return dict(self.numbers)

    def _tokenize(self, text, **kwargs):
        """The longest pieces first, after a space that is no part of the text; bytes otherwise."""
        text, found = "▁" + text.replace(" ", "▁").replace("\n", "<n>"), []
        while text:
            lengths = (n for n in range(min(8, len(text)), 0, -1) if text[:n] in self.numbers)
            length = next(lengths, 0)
            found += [text[:length]] if length else [f"<0x{b:02X}>" for b in text[0].encode()]
            text = text[max(length, 1) :]
        return found

    def _convert_token_to_id(self, token):
        return self.numbers.get(token, 0)

    def _convert_id_to_token(self, index):
        return self.pieces[index]

    def _decode(self, token_ids, **kwargs):
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        text = b""
        for piece in (self.pieces[index] for index in ids if index > 5):
            is_byte = piece.startswith("<0x")
            text += bytes([int(piece[3:5], 16)]) if is_byte else piece.encode()
        return (
            text.decode(errors="replace").replace("▁", " ").replace("<n>", "\n").removeprefix(" ")
        )

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        token_ids_0 += [self.numbers["[gMASK]"], self.numbers["<sop>"]]
        return token_ids_0 if token_ids_1 is None else token_ids_0 + token_ids_1

    def _pad(
        self, encoded_inputs, max_length=None, padding_strategy=PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of=None, return_attention_mask=None,
    ):  # fmt: skip
        ids = encoded_inputs["input_ids"]
        n = len(ids)
        if padding_strategy == PaddingStrategy.LONGEST:
            max_length = n
        if max_length is None:
            return encoded_inputs
        sop = self.numbers["<sop>"]
        start = ids.index(sop) if sop in ids else n
        seen = np.tril(np.ones((1, n, n)))
        seen[:, :, :start] = 1
        positions = np.arange(n)
        if (mask := self.numbers["[gMASK]"]) in ids:
            positions[start:] = ids.index(mask)
        block = np.concatenate([np.zeros(start, int), np.arange(1, n - start + 1)])
        short = max_length - n if padding_strategy != PaddingStrategy.DO_NOT_PAD else 0
        encoded_inputs["attention_mask"] = np.pad(
            seen < 0.5, [(0, 0), (short, 0), (short, 0)], constant_values=True
        )
        encoded_inputs["position_ids"] = np.pad(np.stack([positions, block]), [(0, 0), (short, 0)])
        encoded_inputs["input_ids"] = [self.numbers["<pad>"]] * short + ids
        return encoded_inputs
