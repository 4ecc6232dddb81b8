"""Virtual tokens before the text: prefix tuning by PEFT, and P-Tuning v2 in a model's own code."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig
from typer.testing import CliRunner

import attnprobe
from attnprobe.attention import Survey, record
from attnprobe.attribution import attribute
from attnprobe.capturing import (
    CaptureSettings,
    Crediting,
    Decoding,
    capture,
    count_virtual,
    generate,
)
from attnprobe.capturing import captures as capturing_captures
from attnprobe.cli import app
from attnprobe.encode import encode, encode_prompt, with_prefix
from attnprobe.errors import EncodeError, ModelError, StoreError
from attnprobe.measures import measure
from attnprobe.models import forward_arguments, load_model, transformers_model
from attnprobe.panels import map_panels
from attnprobe.store import open_run, shardwriter, verify
from attnprobe.store.admission import admit
from attnprobe.types import VIRTUAL_ID, Segment, Span
from tests.architectures.zoo import ZOO
from tests.model_kinds import adapted, save_adapter
from tests.store import builders
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

REMOTE = Path(__file__).parent / "remote" / "modeling_prefixed.py"
KINDS = {"PEFT": 3, "P-Tuning v2": 5}
"""How many virtual tokens the model of each kind has."""
LENGTHS = (6, 3, 9, 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path / "cache"))


def save_prefixed(folder):
    """A model folder with code of its own, and a prefix encoder in it."""
    from tests.remote.modeling_prefixed import PrefixedConfig, PrefixedForCausalLM

    torch.manual_seed(0)
    config = PrefixedConfig()
    config.auto_map = {
        "AutoConfig": "modeling_prefixed.PrefixedConfig",
        "AutoModelForCausalLM": "modeling_prefixed.PrefixedForCausalLM",
    }
    PrefixedForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    shutil.copy(REMOTE, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    config = PrefixTuningConfig(num_virtual_tokens=KINDS["PEFT"], task_type="CAUSAL_LM")
    save_adapter(folder / "adapter", tiny_llama(), config, save_model(folder / "base"))
    return {"PEFT": folder / "adapter", "P-Tuning v2": save_prefixed(folder / "own")}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def loaded(folders, kind):
    return load_model(str(folders[kind]), device="cpu", trust_remote_code=kind != "PEFT")


def truth(kind, model, ids):
    """Attention [layer, head, query, key] of a text alone, and its logits, in float64."""
    ids = torch.as_tensor(np.asarray(ids, np.int64))[None]
    return (_eager if kind == "PEFT" else _in_plain_words)(model, ids)


@torch.no_grad()
def _eager(model, ids):
    """By transformers' own eager attention, of the same weights."""
    exact = copy.deepcopy(model).double()
    transformers_model(exact).set_attn_implementation("eager")
    out = exact(ids, output_attentions=True)
    return torch.cat(out.attentions).numpy(), out.logits[0].numpy()


@torch.no_grad()
def _in_plain_words(model, ids):
    """Query by query, what one attends to: the prefix, and the text up to itself."""
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    n_tokens, size = ids.shape[1], 8
    x = weights["embed.weight"][ids[0]] + weights["positions.weight"][:n_tokens]
    prefix = weights["prefix_encoder.weight"]
    attention = torch.zeros(3, 4, n_tokens, len(prefix) + n_tokens, dtype=torch.float64)
    for layer in range(3):
        name = f"layers.{layer}.query_key_value"
        projected = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        own = prefix[:, layer * 64 : (layer + 1) * 64]
        keys = torch.cat([own[:, :32], projected[:, 32:64]])
        values = torch.cat([own[:, 32:], projected[:, 64:]])
        mixed = torch.zeros_like(x)
        for head in range(4):
            part = slice(head * size, (head + 1) * size)
            for query in range(n_tokens):
                seen = len(prefix) + query + 1
                scores = keys[:seen, part] @ projected[query, part] / size**0.5
                row = (scores - scores.max()).exp()
                row = row / row.sum()
                attention[layer, head, query, :seen] = row
                mixed[query, part] = row @ values[:seen, part]
        x = x + mixed
    return attention.numpy(), (x @ weights["head.weight"].T).numpy()


def encodings_of(loaded, kind, lengths=LENGTHS):
    texts = (encode(make_record(n, length=k), loaded.tokenizer) for n, k in enumerate(lengths))
    return [with_prefix(encoding, KINDS[kind]) for encoding in texts]


def captures_of(loaded, encodings, **settings):
    sink = []
    capture(loaded, encodings, CaptureSettings(**settings), sink)
    return sink


# --- encodings -------------------------------------------------------------------------------


def test_virtual_tokens_are_the_beginning_of_the_prompt(tokenizer):
    plain = encode(make_record(), tokenizer)
    encoding = with_prefix(plain, 3)
    assert encoding.ids.tolist() == [VIRTUAL_ID] * 3 + plain.ids.tolist()
    assert encoding.given.tolist() == plain.ids.tolist()
    assert encoding.texts[:4] == ("[prefix 0]", "[prefix 1]", "[prefix 2]", "<s>")
    assert encoding.spans[:2] == (Span(0, 3, "prefix"), Span(3, 4, "special"))
    assert [len(span) for span in encoding.spans[1:]] == [len(span) for span in plain.spans]
    assert (encoding.n_prompt, encoding.n_steps) == (plain.n_prompt + 3, plain.n_steps)
    assert list(encoding.step_queries) == [query + 3 for query in plain.step_queries]
    assert encoding.queries == range(3, encoding.n_tokens)
    assert (plain.n_virtual, encoding.n_virtual) == (0, 3)
    assert plain.queries == range(plain.n_tokens)
    assert encoding.digest != plain.digest
    assert with_prefix(plain, 0) is plain


def test_sinks_are_those_of_the_text(tokenizer):
    plain = encode(make_record(), tokenizer)
    assert plain.sinks == (0, 1, 2, 3)
    encoding = with_prefix(plain, 3)
    assert encoding.sinks == (3, 4, 5, 6)
    assert [group.is_sink for group in encoding.groups[:2]] == [False, True]


def test_a_segment_must_not_have_the_role_of_the_prefix(tokenizer):
    record = replace(make_record(), prompt=(Segment("prefix", "1 2"),), where="a.jsonl:3")
    with pytest.raises(EncodeError) as error:
        with_prefix(encode(record, tokenizer), 3)
    assert str(error.value) == (
        "a.jsonl:3 (id 'item-000/coarse'): a segment has the role of the model's virtual tokens; "
        "got role 'prefix'; give the segment another role."
    )


# --- captures --------------------------------------------------------------------------------


def test_the_number_of_virtual_tokens_is_found_out(loaded, kind):
    assert count_virtual(loaded, Survey(loaded.model)) == KINDS[kind]


def test_models_without_a_prefix_have_no_virtual_tokens(tmp_path):
    plain = load_model(str(save_model(tmp_path / "plain")), device="cpu")
    assert count_virtual(plain, Survey(plain.model)) == 0
    assert count_virtual(plain, Survey(plain.model, "interception")) == 0


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_row_is_the_models_own(loaded, kind, batch_size):
    encodings = encodings_of(loaded, kind)
    found = captures_of(loaded, encodings, keep=("full", "pooled", "steps"), batch_size=batch_size)
    for one in found:
        encoding, rows = one.encoding, one.rows
        expected, logits = truth(kind, loaded.model, encoding.given)
        assert rows.queries.tolist() == list(encoding.queries)
        square = np.zeros(expected.shape)
        for row, pairs in enumerate(np.split(rows.weights, rows.length.cumsum()[:-1], axis=2)):
            square[:, :, row, rows.start[row] :][:, :, : rows.length[row]] = pairs
        np.testing.assert_allclose(square, expected, atol=1e-4)
        assert (expected[..., : encoding.n_virtual].sum(-1) > 1e-3).any()
        starts = [group.start for group in encoding.groups]
        masses = np.add.reduceat(expected, starts, axis=3)
        np.testing.assert_allclose(one.pooled.mass, masses, atol=1e-4)
        steps = [query - encoding.n_virtual for query in encoding.step_queries]
        np.testing.assert_allclose(one.step_mass.mass, masses[:, :, steps], atol=1e-4)
        n_virtual, n_tokens = KINDS[kind], encoding.n_tokens
        seen = np.tri(n_tokens, dtype=bool)[n_virtual:]
        assert (expected[..., ~seen] == 0).all()
        visible = np.add.reduceat(seen, starts, axis=1, dtype=np.int32)
        assert one.visible_queries.tolist() == list(encoding.queries)
        np.testing.assert_array_equal(one.visible, np.stack([visible] * 3))
        assert (one.visible[:, :, 0] == n_virtual).all()
        certain = torch.from_numpy(logits[steps]).log_softmax(-1).numpy()
        targets = encoding.ids[encoding.n_prompt :]
        np.testing.assert_allclose(one.log_probs, certain[range(len(targets)), targets], atol=1e-3)
        assert one.errors.max() < 1e-4


def test_a_long_record_goes_through_a_file(loaded, kind, monkeypatch):
    encodings = encodings_of(loaded, kind, [9])
    (expected,) = captures_of(loaded, encodings, keep=("full",))
    monkeypatch.setattr(capturing_captures, "FULL_IN_MEMORY", 0)
    (found,) = captures_of(loaded, encodings, keep=("full",))
    assert isinstance(found.rows.weights, np.memmap)
    assert found.rows.queries.tolist() == expected.rows.queries.tolist()
    assert found.rows.length.tolist() == expected.rows.length.tolist()
    np.testing.assert_allclose(found.rows.weights, expected.rows.weights, atol=1e-6)


def test_a_generation_is_recorded_as_one_square(folders):
    loaded = load_model(str(folders["PEFT"]), device="cpu")
    ids = torch.arange(10, 22)[None]
    with torch.no_grad(), record(loaded.model, ["full"]) as recording:
        written = loaded.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    expected, _ = truth("PEFT", loaded.model, written[0, :-1])
    assert recording.n_virtual == 3
    found = torch.cat([recording.full[layer] for layer in range(3)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_prefix_that_is_set_aside_is_not_waited_for(folders):
    loaded = load_model(str(folders["PEFT"]), device="cpu")
    ids = torch.arange(10, 22)[None]
    with torch.no_grad(), record(loaded.model, ["full"]) as recording:
        loaded.model.get_base_model()(input_ids=ids)
    assert recording.n_virtual == 0
    assert recording.full[0].shape == (1, 4, 12, 12)


@pytest.mark.parametrize("n_virtual", [0, 4])
def test_another_number_of_virtual_tokens_is_refused(loaded, kind, n_virtual):
    encoding = with_prefix(encode(make_record(), loaded.tokenizer), n_virtual)
    with pytest.raises(ModelError) as error:
        captures_of(loaded, [encoding])
    assert str(error.value) == (
        "record 'item-000/coarse': the model puts another number of virtual tokens before the text "
        f"than the record was encoded with; got {KINDS[kind]}, expected {n_virtual}; encode it "
        "with attnprobe.encode.with_prefix(encoding, n_virtual)."
    )


def test_attributions_are_refused(loaded, kind):
    with pytest.raises(ModelError) as error:
        captures_of(loaded, encodings_of(loaded, kind), crediting=Crediting(("input_x_gradient",)))
    assert str(error.value) == (
        "--attribute: attributions of a model with virtual tokens are not supported: what the "
        f"prefix contributed belongs to no token of the text; got {KINDS[kind]} virtual tokens; "
        "leave out --attribute."
    )


def test_attributions_of_a_prefix_tuned_model_are_refused_without_a_run_too(folders):
    loaded = load_model(str(folders["PEFT"]), device="cpu")
    with pytest.raises(ModelError) as error:
        attribute(loaded.model, [3, 4, 5], 1)
    assert str(error.value) == (
        "model: attributions of a model with virtual tokens are not supported: what the prefix "
        "contributed belongs to no token of the text; got 3 virtual tokens; use a model without "
        "prefix tuning, such as one with a LoRA adapter."
    )
    with loaded.model.disable_adapter():
        base = attribute(loaded.model.get_base_model(), [3, 4, 5], 1).scores
    assert np.isfinite(base[:, 0]).all()


# --- decoding --------------------------------------------------------------------------------


def greedy(kind, model, ids, count):
    """Write token by token after the whole text, in float64."""
    ids = list(ids)
    for _ in range(count):
        _, logits = truth(kind, model, ids)
        ids.append(int(logits[-1].argmax()))
    return ids


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_greedy_text_is_the_most_probable_one(loaded, kind, batch_size):
    prompts = [
        with_prefix(encode_prompt(make_record(n, length=k), loaded.tokenizer), KINDS[kind])
        for n, k in enumerate(LENGTHS)
    ]
    decoding = Decoding("greedy", max_new_tokens=6, batch_size=batch_size)
    n_written = 0
    for indices, written in generate(loaded, prompts, decoding):
        for index, encoding in zip(indices, written, strict=True):
            prompt = prompts[index]
            expected = greedy(kind, loaded.model, prompt.given.tolist(), encoding.n_steps)
            assert encoding.given.tolist() == expected
            assert encoding.n_prompt == prompt.n_prompt
            assert encoding.sinks == prompt.sinks
            assert encoding.spans[0] == Span(0, KINDS[kind], "prefix")
            assert encoding.digest == prompt.digest
            n_written += 1
    assert n_written == len(prompts)


def test_the_prefix_takes_room_of_the_context(folders):
    with_it = load_model(str(folders["PEFT"]), device="cpu")
    assert with_it.max_tokens == 512 - 3


# --- runs ------------------------------------------------------------------------------------


def attnprobe_cli(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    lines = []
    for number in range(12):
        for style in ("coarse", "direct"):
            record = make_record(number, style)
            lines.append(
                json.dumps(
                    {
                        "id": record.id, "item": record.item, "style": style,
                        "task": record.task, "split": "seen",
                        "prompt": [{"role": s.role, "text": s.text} for s in record.prompt],
                        "target": [{"role": s.role, "text": s.text} for s in record.target],
                    }
                )
            )  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def options_of(kind):
    return () if kind == "PEFT" else ("--trust-remote-code",)


def extracted(data, folder, out, kind, *options):
    done = attnprobe_cli("extract", data, "-m", folder, "-o", out, *options_of(kind), *options)
    assert done.exit_code == 0, done.output
    return out


def test_from_the_command_line_to_the_figure(folders, kind, data, tmp_path):
    keep = ("--keep", "full", "--keep", "pooled", "--keep", "steps", "--batch-size", 4)
    out = extracted(data, folders[kind], tmp_path / "run", kind, *keep)
    done = attnprobe_cli("verify", out, "--full")
    assert done.exit_code == 0, done.output
    name = "item-003/coarse"
    with open_run(out) as run:
        assert run.settings["virtual_tokens"] == KINDS[kind]
        assert run.records.worst_error.max() < 1e-4
        encoding = run.encoding(name)
        assert encoding.n_virtual == KINDS[kind]
        loaded = load_model(str(folders[kind]), device="cpu", trust_remote_code=kind != "PEFT")
        expected, _ = truth(kind, loaded.model, encoding.given)
        weights = run.weights(name)
        np.testing.assert_allclose(weights.values, expected, atol=1e-4)
        assert weights["query"].values.tolist() == list(encoding.queries)
        assert weights["key_role"].values[: KINDS[kind]].tolist() == ["prefix"] * KINDS[kind]
        starts = [group.start for group in encoding.groups]
        masses = np.add.reduceat(expected, starts, axis=3)
        assert run.pooled(name)["query"].values.tolist() == list(encoding.queries)
        np.testing.assert_allclose(run.pooled(name).values, masses, atol=1e-3)
        mass = measure(run, "mass", query="answer", key="prefix", ids=[name])
        steps = [q - encoding.n_virtual for q, role in zip(
            encoding.step_queries, run.step_mass(name)["step_role"].values, strict=True
        ) if role == "answer"]  # fmt: skip
        np.testing.assert_allclose(
            mass.values[0], expected[:, :, steps, : KINDS[kind]].sum(-1).mean(-1), atol=1e-3
        )
        check_enrichment(run, name, expected, steps)
    for command in (
        ("contrast", out, "--a", "coarse", "--b", "direct", "--query", "answer", "--key", "prefix",
         "-o", tmp_path / "contrast.csv"),
        ("plot", "map", out, "--record", name, "-o", tmp_path / "map.png"),
        ("plot", "segments", out, "--a", "coarse", "--b", "direct", "-o", tmp_path / "roles.svg"),
        ("export", out, "-o", tmp_path / "run.nc"),
        ("info", out),
    ):  # fmt: skip
        done = attnprobe_cli(*command)
        assert done.exit_code == 0, done.output
    (panel,) = map_panels_of(out, name)
    shown = [label.text.replace("·", " ") for label in panel.columns.labels]
    assert shown[: KINDS[kind]] == list(encoding.texts[: KINDS[kind]])
    assert panel.columns.spans[0].role == "prefix"
    assert panel.rows.labels[0].text == "<s>"


def map_panels_of(out, name):
    with open_run(out) as run:
        return map_panels(run, name)


def check_enrichment(run, name, expected, steps):
    """Hold the enrichment of the prefix against its definition: sinks apart, K of what is seen."""
    encoding = run.encoding(name)
    n_virtual = encoding.n_virtual
    counted = [key for key in range(encoding.n_tokens) if key not in encoding.sinks]
    values = []
    for step in steps:
        rows = expected[:, :, step][..., counted]
        share = expected[:, :, step, :n_virtual].sum(-1) / rows.sum(-1)
        n_seen = sum(key <= step + n_virtual for key in counted)
        even = n_virtual / n_seen
        values.append(np.log2((share + 0.01 * even) / (1.01 * even)))
    found = measure(run, "enrichment", query="answer", key="prefix", ids=[name]).values[0]
    np.testing.assert_allclose(found, np.mean(values, axis=0), atol=2e-2)


def test_a_written_run_begins_with_the_prefix(folders, kind, data, tmp_path):
    out = extracted(
        data, folders[kind], tmp_path / "run", kind, "--decode", "greedy", "--max-new-tokens", 4
    )
    assert attnprobe_cli("verify", out, "--full").exit_code == 0
    again = extracted(
        data, folders[kind], tmp_path / "run", kind, "--decode", "greedy", "--max-new-tokens", 4
    )
    with open_run(again) as run:
        encoding = run.encoding("item-000/coarse")
        assert encoding.generated is not None
        assert encoding.n_virtual == KINDS[kind]
        assert run.weights("item-000/coarse").sizes["query"] == encoding.n_steps


def test_attribution_is_refused_before_anything_is_written(folders, kind, data, tmp_path):
    done = attnprobe_cli(
        "extract", data, "-m", folders[kind], "-o", tmp_path / "run", *options_of(kind),
        "--attribute", "input_x_gradient",
    )  # fmt: skip
    assert done.exit_code == 2
    assert "attributions of a model with virtual tokens are not supported" in " ".join(
        done.output.split()
    )
    assert not (tmp_path / "run").exists()


def test_check_shows_the_prefix(folders, kind, data):
    done = attnprobe_cli("check", data, "-m", folders[kind], "--json", *options_of(kind))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["roles"][0] == {"role": "prefix", "records": 24, "tokens": 24 * KINDS[kind]}
    assert found["shown"][0]["spans"][0] == {"role": "prefix", "start": 0, "stop": KINDS[kind]}


def test_a_probed_text_has_its_prefix(loaded, kind):
    run = attnprobe.probe(loaded, None, "1 2 3 4")
    encoding = run.encoding("text")
    assert (encoding.n_virtual, encoding.n_prompt) == (KINDS[kind], KINDS[kind] + 1)
    expected, _ = truth(kind, loaded.model, encoding.given)
    np.testing.assert_allclose(run.weights("text").values, expected, atol=1e-4)
    pooled = run.pooled("text")
    assert pooled["query"].values.tolist() == list(encoding.queries)


# --- what is not stored ----------------------------------------------------------------------


@pytest.fixture
def captured(folders):
    loaded = load_model(str(folders["PEFT"]), device="cpu")
    (one,) = captures_of(loaded, encodings_of(loaded, "PEFT", [6]), keep=("rows",))
    admit(one, 3, 4)
    return one


def refusal(capture):
    with pytest.raises(StoreError) as error:
        admit(capture, 3, 4)
    return str(error.value)


def test_rows_of_virtual_tokens_are_not_stored(captured):
    rows = captured.rows
    wrong = replace(rows, queries=np.r_[np.int32(2), rows.queries[1:]].astype(np.int32))
    assert refusal(replace(captured, rows=wrong)) == (
        "record 'item-000/coarse': `rows.queries` is not in order; expected ascending positions "
        f"below {captured.encoding.n_tokens}, from 3 on: virtual tokens have no queries."
    )


def test_virtual_tokens_stand_before_all_others(captured):
    ids = captured.encoding.ids.copy()
    ids[5] = VIRTUAL_ID
    assert refusal(replace(captured, encoding=replace(captured.encoding, ids=ids))) == (
        "record 'item-000/coarse': a token id is negative; got -1, expected -1 for virtual "
        "tokens, before all others."
    )


def test_a_prompt_is_more_than_its_virtual_tokens(captured):
    wrong = replace(captured.encoding, n_prompt=3)
    message = refusal(replace(captured, encoding=wrong))
    assert "the prompt holds virtual tokens alone; got 3 of them" in message


def stored_unseen(path, capture, monkeypatch):
    """A run of one capture that nobody looked at before it was stored."""
    monkeypatch.setattr(shardwriter, "admit", lambda *_: None)
    writer = builders.open_writer(path, [capture])
    builders.write_missing(writer, [capture])
    return {fault.what for fault in verify(path, full=True).faults}


def handmade_capture(n_virtual=3, **changes):
    rng = np.random.default_rng(0)
    text = builders.make_encoding(builders.make_record("coarse", 0, 0, rng))
    encoding = replace(with_prefix(text, n_virtual), **changes)
    return builders.make_capture(encoding, builders.causal_weights(encoding, 2, 3, rng))


def test_verify_tells_of_queries_that_are_virtual(tmp_path, monkeypatch):
    found = stored_unseen(tmp_path / "run", handmade_capture(), monkeypatch)
    assert found == {
        "/pooled_query names a virtual token, which has no query",
        "/visible_query names a virtual token, which has no query",
    }


def test_verify_tells_of_virtual_tokens_in_the_text(tmp_path, monkeypatch):
    ids = handmade_capture(0).encoding.ids.copy()
    ids[[2, 4]] = VIRTUAL_ID
    assert stored_unseen(tmp_path / "run", handmade_capture(0, ids=ids), monkeypatch) == {
        "a token id is negative"
    }


def test_verify_tells_of_prompts_without_a_text(tmp_path, monkeypatch):
    capture = handmade_capture(n_prompt=3)
    assert "its prompt holds virtual tokens alone" in stored_unseen(
        tmp_path / "run", capture, monkeypatch
    )


# --- architectures ---------------------------------------------------------------------------

ARCHITECTURES = (
    "llama-mqa", "mistral-sliding", "qwen3_moe", "gemma2", "gpt2", "opt", "gpt_oss", "glm4",
    "diffllama", "bloom", "gptj",
)  # fmt: skip


@pytest.mark.parametrize("route", [None, "interception"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prefix_tuning_is_exact_whatever_it_is_put_on(name, route):
    model = adapted(ZOO[name](), PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    model.eval()
    torch.manual_seed(0)
    ids, mask = torch.randint(3, 128, (3, 10)), torch.ones(3, 10, dtype=torch.long)
    mask[1, :4], mask[2, :1] = 0, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in forward_arguments(model.get_base_model()):
        inputs["position_ids"] = (mask.cumsum(1) - 1).clip(0)
    with torch.no_grad(), record(model, ["full"], survey=Survey(model, route)) as recording:
        model(**inputs)
    assert recording.n_virtual == 3
    model.get_base_model().set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True).attentions
    for layer, found in recording.full.items():
        for index, first in enumerate((0, 4, 1)):
            rows = found[index, :, first:]
            torch.testing.assert_close(rows, expected[layer][index, :, first:], atol=1e-4, rtol=0)
            assert (rows[..., :3] > 1e-3).any()
