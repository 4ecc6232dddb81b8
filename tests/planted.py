"""Llamas wired by hand, of which it is known what every prediction owes itself to.

A token is a word, written as one axis of the residual stream; every token also has a 1 on the axis
ONE. There are four registers of words: what the token is, two more for what was fetched, and what
is read out. MLPs are 0. The slow axes of a head (rotary positions hardly turn them) compare words
or marks, the three fastest find the token before.
"""

import math
from itertools import pairwise

import torch
from transformers import LlamaConfig, LlamaForCausalLM

N_WORDS = 12
REGISTERS = [slice(12 * i, 12 * (i + 1)) for i in range(4)]
TOKEN, FIRST, SECOND, READ = REGISTERS
ONE, MARK, DECOY = 48, 49, 50
SIZE, HEAD, SLOW, HALF = 64, 32, 4, 16
THETA = 1e12
"""Pairs of axes turn by THETA^(−i/16) per position: 1, 0.18, 0.03 … and then hardly."""
MARKED, DECOYS = N_WORDS, 2 * N_WORDS
"""The same words again with a mark, and again as decoys."""
SHARP = 6.0


def blank(n_layers, n_heads=1, gain=3.0):
    """A model that attends evenly to everything and adds nothing."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=3 * N_WORDS, hidden_size=SIZE, intermediate_size=8,
            num_hidden_layers=n_layers, num_attention_heads=n_heads, num_key_value_heads=n_heads,
            head_dim=HEAD, max_position_embeddings=64, tie_word_embeddings=False,
            rope_parameters={"rope_theta": THETA, "rope_type": "default"}, bos_token_id=0,
            eos_token_id=1,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        words = torch.eye(N_WORDS)
        table = model.model.embed_tokens.weight
        table[:, ONE] = 1.0
        for block in range(3):
            table[block * N_WORDS : (block + 1) * N_WORDS, TOKEN] = words
        table[MARKED:DECOYS, MARK] = table[DECOYS:, DECOY] = 1.0
        model.lm_head.weight[:N_WORDS, READ] = gain * words
    return model


def part(model, layer, head, name):
    """The rows of a projection that belong to a head (columns, for the output)."""
    weight = getattr(model.model.layers[layer].self_attn, f"{name}_proj").weight.data
    rows = slice(head * HEAD, (head + 1) * HEAD)
    return weight[:, rows] if name == "o" else weight[rows]


def look_back(model, layer, head=0):
    """Attend to the token before."""
    for i in range(3):
        turn = -(THETA ** (-i / HALF))
        part(model, layer, head, "q")[i, ONE] = SHARP * math.cos(turn)
        part(model, layer, head, "q")[i + HALF, ONE] = SHARP * math.sin(turn)
        part(model, layer, head, "k")[i, ONE] = SHARP


def look_for_word(model, layer, query, key, head=0):
    """Attend to the token whose register `key` holds what the query's register `query` holds."""
    for word in range(N_WORDS):
        part(model, layer, head, "q")[SLOW + word, query.start + word] = SHARP
        part(model, layer, head, "k")[SLOW + word, key.start + word] = SHARP


def look_for_mark(model, layer, mark, head=0):
    """Attend to the tokens with a mark."""
    part(model, layer, head, "q")[SLOW, ONE] = SHARP
    part(model, layer, head, "k")[SLOW, mark] = SHARP


def copy(model, layer, source, to, head=0, gain=1.0):
    """Move words from a register of the token that is attended to into one of the query."""
    for word in range(N_WORDS):
        part(model, layer, head, "v")[word, source.start + word] = 1.0
        part(model, layer, head, "o")[to.start + word, word] = gain


def induction():
    """… A B … A → B: the second layer looks for the token that follows what it reads."""
    model = blank(2)
    look_back(model, 0)
    copy(model, 0, TOKEN, FIRST, gain=0.1)
    look_for_word(model, 1, query=TOKEN, key=FIRST)
    copy(model, 1, TOKEN, READ)
    return model


def with_decoys():
    """One head copies the marked word; three look at the decoy and bring nothing."""
    model = blank(1, n_heads=4)
    look_for_mark(model, 0, MARK)
    copy(model, 0, TOKEN, READ)
    for head in (1, 2, 3):
        look_for_mark(model, 0, DECOY, head)
        copy(model, 0, TOKEN, READ, head, gain=0.0)
    return model


def with_cancelling_heads():
    """One head copies the marked word; two copy the decoy, with opposite signs."""
    model = blank(1, n_heads=4)
    look_for_mark(model, 0, MARK)
    copy(model, 0, TOKEN, READ)
    for head, gain in ((1, 4.0), (2, -4.0)):
        look_for_mark(model, 0, DECOY, head)
        copy(model, 0, TOKEN, READ, head, gain)
    copy(model, 0, TOKEN, READ, head=3, gain=0.0)
    return model


def chain():
    """Three layers hand the word on from token to token: three hops."""
    model = blank(3)
    for layer, (source, to) in enumerate(pairwise(REGISTERS)):
        look_back(model, layer)
        copy(model, layer, source, to, gain=1.0 if to is READ else 0.2)
    return model


def sequences(kind, n=20, length=16):
    """Yield (ids, n_prompt, position of the truth): sequences whose last token is predicted."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(n):
        words = torch.randperm(N_WORDS, generator=generator)
        ids = words[torch.arange(length) % 3 + 3].clone()  # filler of three other words
        at, other = (torch.randperm(length - 6, generator=generator)[:2] + 2).tolist()
        if kind == "induction":
            ids[at], ids[at - 1] = words[0], words[1]
            ids[-2], ids[-1] = words[1], words[0]
        elif kind == "marks":
            ids[at], ids[other] = words[0] + MARKED, words[1] + DECOYS
            ids[-1] = words[0]
        else:
            at = length - 2 - 3
            ids[at], ids[-1] = words[0], words[0]
        yield ids, length - 1, at
