"""Code of another time: what is supplied, and what is said where that does not do."""

import pytest

from attnprobe import load_model
from attnprobe.capturing import can_pad, padded_ids
from attnprobe.encode import encode
from attnprobe.errors import EncodeError, ModelError
from attnprobe.types import Record, Segment
from tests.chatglm.folders import save_chatglm

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def edited(folder, name, before, after):
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    return folder


def load(folder):
    return load_model(str(folder), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("kind", ["first", "third"])
def test_numbers_are_found_under_the_names_of_the_time(tmp_path, kind):
    loaded = load(save_chatglm(tmp_path / "m", kind))
    found = loaded.n_layers, loaded.n_heads, loaded.n_kv_heads, loaded.max_tokens
    assert found == (3, 4, 4 if kind == "first" else 2, 256)
    assert {str(p.dtype) for p in loaded.model.parameters()} == {"torch.float32"}
    assert not hasattr(loaded.config, "max_length")


def test_code_is_not_run_unasked(tmp_path):
    with pytest.raises(ModelError, match="code of its own, which is not run unasked"):
        load_model(str(save_chatglm(tmp_path / "m", "first")), device="cpu")


def test_code_that_does_not_run_here_is_named(tmp_path):
    folder = save_chatglm(tmp_path / "m", "second")
    edited(folder, "modeling_second.py", "config.max_length", "config.no_longer_there")
    with pytest.raises(ModelError) as caught:
        load(folder)
    message = str(caught.value)
    assert "the code that comes with this model does not run here" in message
    assert "no_longer_there" in message
    assert "look for a newer revision of the model's code" in message


def test_a_tokenizer_that_cannot_pad_runs_records_alone(tmp_path):
    folder = save_chatglm(tmp_path / "m", "first")
    edited(folder, "tokenization_first.py", "        short = max_length - n", "        short = no")
    loaded = load(folder)
    assert not can_pad(loaded)
    with pytest.raises(ModelError) as caught:
        padded_ids(loaded, [[8, 3, 4, 9], [8, 9, 3, 4, 9]])
    assert "the tokenizer that came with this model cannot pad" in str(caught.value)
    assert "--batch-size 1" in str(caught.value)


def test_text_that_a_tokenizer_loses_is_refused(tmp_path):
    folder = save_chatglm(tmp_path / "m", "second")
    edited(folder, "tokenization_second.py", '"▁" + text.replace', '"▁" + text[:3].replace')
    record = Record("a", "a", "s", (Segment("history", "12 45"),), (Segment("answer", "7"),))
    with pytest.raises(EncodeError) as caught:
        encode(record, load(folder).tokenizer)
    assert str(caught.value) == (
        "record (id 'a'): the tokens of SecondTokenizer do not give back the text, so that none "
        "can be placed in it; got '', expected '45\\n'; replace characters that the tokenizer does "
        "not know, or use a fast tokenizer (tokenizer.json)."
    )
