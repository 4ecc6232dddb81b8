"""How long the vectors are that heads fetch: captured, stored, and measured."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from attnprobe.attention import Survey, measured_values, record
from attnprobe.capturing import CaptureSettings, capture
from attnprobe.encode import encode, with_prefix
from attnprobe.errors import MeasureError, ModelError, SelectionError, StoreError
from attnprobe.measures import measure
from attnprobe.measures.values import value_norm_enrichment, value_norm_mass
from attnprobe.models import load_model, transformers_model
from attnprobe.store import open_run, verify
from attnprobe.store.exporting import export
from attnprobe.workflows.extract import ExtractSettings, extract
from tests.handmade import MIXES, N_HEADS, SIZE, Attention, HandMade
from tests.model_kinds import save_adapter
from tests.store.builders import edit_json, make_captures, open_writer, reseal, write_missing
from tests.test_measures_rows import random_rows
from tests.tiny import make_record, save_model, tiny_llama


def norms_of(model, ids):
    """Norms by layer, as captured beside rows."""
    survey = Survey(model)
    options = {"use_cache": False} if survey.configs else {}
    with (
        torch.inference_mode(),
        record(model, ["full"], survey=survey) as recording,
        measured_values(model, survey.name) as norms,
    ):
        recording.take_call = norms.take
        model(ids, **options)
    norms.check(sorted(recording.visible))
    return norms.found


def by_hand(values, matrix):
    """‖v W_h‖ of values [batch, key, KV head, size] and an output matrix [out, head · size]."""
    size = values.shape[-1]
    n_heads = matrix.shape[1] // size
    values = values.repeat_interleave(n_heads // values.shape[2], dim=2)
    parts = [values[:, :, h] @ matrix[:, h * size : (h + 1) * size].T for h in range(n_heads)]
    return torch.stack([part.norm(dim=-1) for part in parts], dim=1)


def test_norms_of_a_llama_with_shared_values_are_those_of_its_weights():
    model, ids = tiny_llama(), torch.randint(2, 300, (2, 9))
    with torch.inference_mode():
        states = model(ids, output_hidden_states=True).hidden_states
        found = norms_of(model, ids)
        for layer, block in enumerate(model.model.layers):
            values = block.self_attn.v_proj(block.input_layernorm(states[layer])).unflatten(
                -1, (2, 8)
            )
            expected = by_hand(values, block.self_attn.o_proj.weight)
            torch.testing.assert_close(found[layer], expected, rtol=1e-4, atol=1e-5)


def test_norms_of_a_gpt2_whose_matrix_is_no_linear_layer_are_right_too():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    ).eval()
    ids = torch.randint(0, 60, (2, 7))
    with torch.inference_mode():
        for block in model.transformer.h:
            block.attn.c_proj.bias.normal_()
        states = model(ids, output_hidden_states=True).hidden_states
        found = norms_of(model, ids)
        for layer, block in enumerate(model.transformer.h):
            values = block.attn.c_attn(block.ln_1(states[layer]))[..., 64:].unflatten(-1, (4, 8))
            expected = by_hand(values, block.attn.c_proj.weight.T)
            torch.testing.assert_close(found[layer], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mix", ["plain", "fused_axis", "sequence_first", "einsum", "fused_kernel"])
def test_norms_are_the_same_by_interception(mix):
    model, ids = HandMade(MIXES[mix]), torch.randint(0, 50, (2, 6))
    given = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with torch.inference_mode():
        found = norms_of(model, ids)
        for layer, block in enumerate(model.blocks):
            values = block.attn.qkv(given[layer]).unflatten(-1, (3, N_HEADS, -1))[:, :, 2]
            expected = by_hand(values, block.attn.out.weight)
            torch.testing.assert_close(found[layer], expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_does_more_than_multiply_is_refused():
    model = HandMade(MIXES["plain"])
    for block in model.blocks:
        block.attn.out = torch.nn.Sequential(torch.nn.LayerNorm(SIZE), torch.nn.Linear(SIZE, SIZE))
    with pytest.raises(ModelError) as caught:
        norms_of(model, torch.randint(0, 50, (1, 6)))
    assert "the lengths of moved values cannot be measured" in str(caught.value)
    assert "in layers [0, 1, 2]" in str(caught.value)
    assert "leave value_norms out of --keep" in str(caught.value)


def test_a_gate_between_heads_and_matrix_is_refused():
    class GatedAttention(Attention):
        def forward(self, x, seen):
            query, key, value = self.qkv(x).unflatten(-1, (3, N_HEADS, -1)).unbind(2)
            return self.out(self.mix(query, key, value, seen) * x.sigmoid())

    model = HandMade(MIXES["plain"])
    model.blocks[1].attn.__class__ = GatedAttention
    with pytest.raises(ModelError, match=r"in layers \[1\]"):
        norms_of(model, torch.randint(0, 50, (1, 6)))


# --- captured and stored ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    records = [make_record(i, style) for i in range(3) for style in ("coarse", "stepwise")]
    path = tmp_path_factory.mktemp("norms") / "run"
    settings = ExtractSettings(keep=("rows", "value_norms"), records_per_chunk=2, batch_size=3)
    with extract(records, str(folder), path, settings) as opened:
        yield opened


def test_batches_heads_and_layers_are_cut_out_as_rows_are(folder):
    loaded = load_model(str(folder))
    encodings = [encode(make_record(i, length=4 + 3 * i), loaded.tokenizer) for i in range(3)]
    alone, batched, rows = [], [], []
    capture(loaded, encodings, CaptureSettings(("rows", "value_norms")), alone)
    some = CaptureSettings(("rows", "value_norms"), layers=(0, 2), heads=(3, 1), batch_size=3)
    capture(loaded, encodings, some, batched)
    for whole, part in zip(alone, batched, strict=True):
        assert whole.value_norms.shape == (3, 4, whole.encoding.n_tokens)
        assert part.value_norms == pytest.approx(whole.value_norms[[0, 2]][:, [3, 1]], rel=1e-3)
    capture(loaded, encodings, CaptureSettings(("rows",)), rows)
    assert all(one.value_norms is None for one in rows)


def test_a_stored_run_gives_them_back_and_verifies(run, folder):
    assert run.keep == ("rows", "value_norms")
    assert verify(run.path, full=True).faults == ()
    loaded = load_model(str(folder))
    captures = []
    encodings = [run.encoding(record_id) for record_id in run.records.index]
    capture(loaded, encodings, CaptureSettings(("rows", "value_norms")), captures)
    for wanted, (_, found) in zip(captures, run.iter_step_rows(norms=True), strict=True):
        assert found["value_norm"].dims == ("layer", "head", "key")
        assert found["value_norm"].values == pytest.approx(wanted.value_norms, rel=1e-3)
    for _, found in run.iter_step_rows(layer=[1], head=[2, 0], norms=True):
        assert found["value_norm"].shape[:2] == (1, 2)


def test_exports_hold_them(run, tmp_path):
    import h5py

    export(run.path, tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as file:
        assert file["/shards/chunk-00000/value_norm"].shape[:2] == (3, 4)


def test_a_flipped_length_is_noticed(run, tmp_path):
    import shutil

    import h5py

    path = shutil.copytree(run.path, tmp_path / "run")
    with h5py.File(path / "shards" / "chunk-00000.h5", "r+") as file:
        file["/value_norm"][0, 0, 0] = np.nan
    reseal(path)
    told = [fault.what for fault in verify(path, full=True).faults]
    assert "/value_norm holds what is no length" in told
    assert "its bytes are not those of its CRC-32" in told


def test_what_is_no_length_is_not_stored(tmp_path):
    captures = make_captures(tasks=1, items_per_task=1)
    norms = [np.ones((2, 3, c.encoding.n_tokens), np.float32) for c in captures]
    norms[1][1, 2, 4] = np.inf
    captures = [dataclasses.replace(c, value_norms=n) for c, n in zip(captures, norms, strict=True)]
    writer = open_writer(tmp_path / "run", captures, keep=("rows", "value_norms"))
    with pytest.raises(StoreError) as caught:
        write_missing(writer, captures)
    assert "a length in `value_norms` is none; got inf, expected a finite number" in str(
        caught.value
    )
    lacking = [dataclasses.replace(c, value_norms=None) for c in captures]
    writer = open_writer(tmp_path / "other", lacking, keep=("rows", "value_norms"))
    with pytest.raises(StoreError, match="the capture lacks `value_norms`, which the run keeps"):
        write_missing(writer, lacking)


def test_a_run_that_lacks_the_column_is_refused(tmp_path):
    captures = make_captures(tasks=1, items_per_task=1)
    write_missing(open_writer(tmp_path / "run", captures, keep=("rows",)), captures)

    def claim(manifest):
        manifest["settings"]["keep"] = ["rows", "value_norms"]

    edit_json(tmp_path / "run" / "manifest.json", claim)
    told = [fault.what for fault in verify(tmp_path / "run").faults]
    assert told
    assert any("settings_hash" in what for what in told)


def test_value_norms_go_with_rows():
    with pytest.raises(SelectionError) as caught:
        ExtractSettings(keep=("steps", "value_norms"))
    assert "value_norms says what rows bring, and goes with them" in str(caught.value)
    assert "add --keep rows" in str(caught.value)


# --- measured -----------------------------------------------------------------------------------


def test_shares_sum_to_1_and_are_weights_where_all_values_are_as_long():
    rows = random_rows(np.random.default_rng(0), members=np.eye(12, dtype=bool))
    rng = np.random.default_rng(1)
    norms = rng.lognormal(size=(2, 3, 12)).astype(np.float32)
    found = value_norm_mass(dataclasses.replace(rows, value_norms=norms))
    assert found.sum(-1) == pytest.approx(1, abs=1e-5)
    fetched = rows.weights * norms[:, :, None]
    assert found == pytest.approx(fetched / fetched.sum(-1, keepdims=True), abs=1e-6)
    even = dataclasses.replace(rows, value_norms=np.full((2, 3, 12), 7, np.float32))
    assert value_norm_mass(even) == pytest.approx(rows.weights, abs=1e-5)


def test_enrichment_is_0_where_every_key_brings_the_same():
    rows = random_rows(np.random.default_rng(2), members=np.eye(12, 3, dtype=bool), apart=[0])
    weights = np.where(rows.visible[:, None], 1 / np.arange(1, 13), 0) * np.ones((1, 3, 1, 1))
    norms = np.broadcast_to(np.arange(1, 13), (2, 3, 12)).astype(np.float32)
    even = dataclasses.replace(rows, weights=weights.astype(np.float32), value_norms=norms)
    found = value_norm_enrichment(even)
    assert np.isnan(found[..., 0]).all()  # a sink
    assert found[..., 1:] == pytest.approx(0, abs=1e-5)


def test_without_lengths_it_says_what_to_keep(tmp_path, run):
    rows = random_rows(np.random.default_rng(3))
    with pytest.raises(MeasureError, match="extract again with --keep value_norms"):
        value_norm_mass(rows)
    captures = make_captures(tasks=1, items_per_task=1)
    write_missing(open_writer(tmp_path / "run", captures), captures)
    with open_run(tmp_path / "run") as bare:
        with pytest.raises(MeasureError) as caught:
            measure(bare, "value_norm_mass")
        assert "extract again with --keep rows --keep value_norms" in str(caught.value)
        with pytest.raises(MeasureError, match="extract again with --keep value_norms"):
            next(bare.iter_step_rows(norms=True))


def test_a_run_is_measured_as_its_rows_and_lengths_say(run):
    got = measure(run, "value_norm_mass", query="answer", key="history")
    assert got.dims == ("record", "layer", "head")
    assert got.attrs["units"] == "share"
    for record_id, found in run.iter_step_rows(norms=True):
        fetched = found.values * found["value_norm"].values[:, :, None]
        answer = found["step_role"].values == "answer"
        history = found["key_role"].values == "history"
        share = fetched[..., history].sum(-1) / fetched.sum(-1)
        assert got.sel(record=record_id).values == pytest.approx(
            share[:, :, answer].mean(-1), abs=1e-5
        )
    whole = measure(run, "value_norm_mass", query="answer")
    assert np.nansum(whole.values, axis=-1) == pytest.approx(1, abs=0.35)


def test_virtual_tokens_have_values_too_and_padding_has_none(tmp_path):
    from peft import PrefixTuningConfig

    config = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    save_adapter(tmp_path / "adapter", tiny_llama(), config, save_model(tmp_path / "base"))
    loaded = load_model(str(tmp_path / "adapter"), device="cpu")
    encodings = [
        with_prefix(encode(make_record(i, length=4 + 3 * i), loaded.tokenizer), 3) for i in range(3)
    ]
    alone, batched = [], []
    capture(loaded, encodings, CaptureSettings(("rows", "value_norms")), alone)
    capture(loaded, encodings, CaptureSettings(("rows", "value_norms"), batch_size=3), batched)
    matrix = transformers_model(loaded.model).model.layers[1].self_attn.o_proj.weight.detach()
    values = loaded.model.get_prompt(batch_size=1).layers[1].values  # batch, head, key, size
    expected = by_hand(values.detach().transpose(1, 2), matrix)[0]
    for one, other in zip(alone, batched, strict=True):
        assert one.value_norms.shape[-1] == one.encoding.n_tokens
        assert other.value_norms == pytest.approx(one.value_norms, rel=1e-3)
        assert one.value_norms[1, :, :3] == pytest.approx(expected.numpy(), rel=1e-3)
