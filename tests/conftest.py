"""Tiny models and tokenizers made on the spot, and the one real model that a package ships."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from tests.tiny import make_tokenizer, tiny_llama

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def llama():
    return tiny_llama()


@pytest.fixture(scope="session")
def smollm2():
    from attnprobe.models import load_model

    return load_model("smollm2-135m-instruct", device="cpu", dtype="float32")
