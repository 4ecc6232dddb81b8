import numpy as np
import pytest
import torch

import attnprobe
from attnprobe.contrasts import contrast
from attnprobe.encode import encode
from attnprobe.errors import EncodeError, ModelError, RecordError, SelectionError, StoreError
from attnprobe.figures import draw_maps
from attnprobe.models import LoadedModel
from attnprobe.panels import Panel, map_panels
from attnprobe.store.memory import in_memory
from attnprobe.store.notebook import run_table
from attnprobe.types import Record, Segment
from attnprobe.workflows import probing
from tests.tiny import make_record, make_tokenizer, save_model, tiny_llama

TEXT = "1 2 3 数列\n5"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def eager_attentions(tokenizer, text):
    """The attentions of the same weights by transformers' own eager attention."""
    model = tiny_llama(attn_implementation="eager")
    with torch.inference_mode():
        out = model(tokenizer(text, return_tensors="pt").input_ids, output_attentions=True)
    return torch.cat(out.attentions).numpy(), out.logits[0]


def test_a_probed_text_shows_what_eager_attention_shows(llama, tokenizer):
    run = attnprobe.probe(llama, tokenizer, TEXT)
    expected, logits = eager_attentions(tokenizer, TEXT)
    assert run.weights("text").values == pytest.approx(expected, abs=1e-5)
    ids = torch.tensor(tokenizer(TEXT).input_ids)
    log_probs = logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None])[:, 0]
    assert run.predictions("text")["log_prob"].values == pytest.approx(log_probs.numpy(), abs=1e-4)


def test_every_token_after_the_first_counts_as_predicted(llama, tokenizer):
    run = attnprobe.probe(llama, tokenizer, TEXT)
    encoding = run.encoding("text")
    assert (encoding.n_prompt, encoding.n_steps) == (1, encoding.n_tokens - 1)
    assert {span.role for span in encoding.spans} == {"special", "prompt"}
    assert run.step_mass("text").sizes["step"] == encoding.n_steps
    assert attnprobe.measure(run, "mass", query="prompt").sizes["key_role"] == 2


def test_with_a_target_only_its_tokens_are_predicted(llama, tokenizer):
    run = attnprobe.probe(llama, tokenizer, "1 2 3 ", target="4 5", keep="rows")
    encoding = run.encoding("text")
    assert "".join(encoding.texts[encoding.n_prompt :]) == "4 5"
    assert run.weights("text")["query"].values.tolist() == list(encoding.step_queries)
    whole, _ = eager_attentions(tokenizer, "1 2 3 4 5")
    steps = whole[:, :, encoding.n_prompt - 1 : -1]
    assert run.weights("text").values == pytest.approx(steps, abs=1e-5)


def test_segments_keep_their_roles_and_nothing_is_added_at_the_end(llama, tokenizer):
    pieces = [("instruction", "Continue:"), ("history", "1 2 3")]
    encoding = attnprobe.probe(llama, tokenizer, pieces).encoding("text")
    roles = [span.role for span in encoding.spans]
    assert roles == ["special", "instruction", "template", "history"]
    assert "".join(encoding.texts[1:]) == "Continue:\n1 2 3"
    with_target = attnprobe.probe(llama, tokenizer, pieces, target=[("answer", "4")])
    assert with_target.encoding("text").spans[-1].role == "answer"
    one = attnprobe.probe(llama, tokenizer, [Segment("history", "1 2")]).encoding("text")
    assert "".join(one.texts[1:]) == "1 2"


def test_layers_and_heads_are_chosen_by_their_numbers(llama, tokenizer):
    run = attnprobe.probe(llama, tokenizer, TEXT, layers=2, heads=[1, 3], keep=["rows", "pooled"])
    assert (run.layers, run.heads, set(run.keep)) == ((2,), (1, 3), {"rows", "pooled"})
    assert run.pooled("text").sizes["query"] == run.encoding("text").n_tokens
    with pytest.raises(SelectionError, match=r"no such layer.*got 7, expected 0 to 2"):
        attnprobe.probe(llama, tokenizer, TEXT, layers=7)


def test_records_can_be_contrasted_without_a_file(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [make_record(i, style) for i in range(6) for style in ("coarse", "stepwise")]
    run = attnprobe.probe(llama, tokenizer, records, keep="rows")
    found = contrast(run, a="coarse", b="stepwise", query="answer", key="history")
    assert found.n_pairs == 6
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]
    ids = ["item-000/coarse", "item-000/stepwise"]
    assert draw_maps(map_panels(run, ids)).axes[0].get_images()


def test_a_probe_is_what_extract_stores(llama, tokenizer, tmp_path):
    records = [make_record(0)]
    loaded = LoadedModel(llama, tokenizer, "tiny")
    settings = attnprobe.ExtractSettings(keep=("rows",), encoding="f32")
    with attnprobe.extract(records, loaded, tmp_path / "run", settings) as on_disk:
        run = attnprobe.probe(loaded, None, records[0], keep="rows")
        name = records[0].id
        assert np.array_equal(run.weights(name).values, on_disk.weights(name).values)
        assert run.records.drop(columns="shard").equals(on_disk.records.drop(columns="shard"))
        assert run.info()["counts"] == on_disk.info()["counts"]
        assert run.model == on_disk.model


def test_a_model_may_be_a_folder(tmp_path):
    folder = str(save_model(tmp_path / "model"))
    run = attnprobe.probe(folder, None, TEXT)
    assert run.model["name"] == folder
    assert attnprobe.probe(folder, make_tokenizer(bos=False), TEXT).encoding("text").n_tokens == (
        run.encoding("text").n_tokens - 1
    )


def test_the_model_is_left_in_the_mode_it_had(llama, tokenizer):
    llama.train()
    llama.model.layers[1].eval()
    modes = [module.training for module in llama.modules()]
    attnprobe.probe(llama, tokenizer, TEXT)
    assert [module.training for module in llama.modules()] == modes


def test_a_closed_run_opens_again(llama, tokenizer):
    with attnprobe.probe(llama, tokenizer, TEXT) as run:
        before = run.weights("text").values
    assert np.array_equal(run.weights("text").values, before)


def test_wrong_use_says_what_is_right(llama, tokenizer, monkeypatch):
    with pytest.raises(ModelError, match=r"no tokenizer; got LlamaForCausalLM; .*probe\(model, t"):
        attnprobe.probe(llama, None, TEXT)
    with pytest.raises(RecordError, match="records have targets of their own; got a target besid"):
        attnprobe.probe(llama, tokenizer, make_record(), target="4")
    with pytest.raises(RecordError, match="no text to probe; got an empty list"):
        attnprobe.probe(llama, tokenizer, [])
    with pytest.raises(RecordError, match=r"probe, text: a segment is empty; got .*'prompt', ''"):
        attnprobe.probe(llama, tokenizer, "")
    with pytest.raises(RecordError, match=r"no pair of texts; got 'history'.*\(role, text\)"):
        probing._records(["history", "1 2 3"], None)
    with pytest.raises(EncodeError, match="too short: nothing is predicted; got 1 token, expected"):
        attnprobe.probe(llama, make_tokenizer(bos=False), "1")
    monkeypatch.setattr(probing, "MOST_BYTES", 100)
    with pytest.raises(StoreError, match=r"too much memory; got .* GiB.*choose layers= or heads="):
        attnprobe.probe(llama, tokenizer, TEXT)


def test_a_run_in_memory_lacks_no_capture():
    from attnprobe.store import PlannedRecord

    planned = [PlannedRecord.of(encode(make_record(), make_tokenizer()))]
    settings = {"keep": ["rows"], "encoding": "f32"}
    with (
        pytest.raises(StoreError, match="captures are missing"),
        in_memory(settings, {}, [0], [0], planned),
    ):
        pass


def test_notebooks_show_what_a_run_holds(llama, tokenizer):
    record = Record("<b>", "<i>", "<script>", (Segment("history", "1 2 3"),))
    html = attnprobe.probe(llama, tokenizer, record)._repr_html_()
    assert "&lt;script&gt; (1)" in html
    assert "<script>" not in html
    assert "3 layers × 4 heads, keep full, stored as f32" in html
    assert "worst certificate" in html
    unfinished = attnprobe.probe(llama, tokenizer, record).info()
    unfinished |= {"complete": False, "records": {"sealed": 1, "planned": 9}}
    unfinished["tasks"] = {f"task-{i}": 1 for i in range(20)}
    table = run_table(unfinished)
    assert "1 of 9 so far" in table
    assert "<td>20</td>" in table


def test_notebooks_show_verdict_and_strongest_heads(llama, tokenizer):
    records = [make_record(i, style) for i in range(6) for style in ("coarse", "stepwise")]
    run = attnprobe.probe(llama, tokenizer, records, keep="steps")
    found = contrast(run, a="coarse", b="stepwise", query="answer", key="history")
    html = found._repr_html_()
    assert "enrichment, answer → history: coarse − stepwise (bits).<br>" in html
    assert html.count("<tr") == 6  # a head line and five heads


def test_notebooks_show_panels_as_figures():
    panel = Panel(
        values=np.ones((1, 2)), rows=("<a>",), columns=("b", "c"), title='x < "y"',
        row_axis="r", column_axis="c", name="n", unit="u", limits=(0.0, 1.0),
    )  # fmt: skip
    html = panel._repr_html_()
    assert html.startswith('<img alt="x &lt; &quot;y&quot;" src="data:image/png;base64,iVBORw0')
