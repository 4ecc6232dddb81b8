"""ChatGLM-6B, 2 and 3 end to end: from a folder with code of its own to a run."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from attnprobe import contrast, load_model
from attnprobe.cli import app
from attnprobe.store import open_run
from tests.chatglm.folders import KINDS, save_chatglm
from tests.chatglm.truth import first_seen, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")

EACH_KIND = pytest.mark.parametrize("kind", KINDS)
N_TASKS = 6


def record(number, style):
    history = " ".join(str((7 * number + 3 * i) % 50) for i in range(5 + number % 3))
    prompt = [("instruction", "每3项求和后预测下一块：" if style == "coarse" else "step by step:")]
    answer = ("answer", f"{number} 12 23")
    target = [("coarse_answer", "24"), answer] if style == "coarse" else [answer]
    return {
        "id": f"{number}/{style}", "item": str(number), "style": style, "split": "seen",
        "task": f"task {number % N_TASKS}",
        "prompt": [{"role": r, "text": t} for r, t in [*prompt, ("history", history)]],
        "target": [{"role": r, "text": t} for r, t in target],
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    records = [
        record(number, style) for number in range(N_TASKS) for style in ("coarse", "stepwise")
    ]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: save_chatglm(root / kind, kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNPROBE_CACHE", str(tmp_path / "cache"))


def attnprobe(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def extract(data, model, out, *options):
    attnprobe("extract", data, "-m", model, "-o", out, "--trust-remote-code",
              "--encoding", "f32", *options)  # fmt: skip
    return open_run(out)


def loaded(folder):
    return load_model(str(folder), trust_remote_code=True, device="cpu")


def seen_by(kind, model, ids):
    if kind == "first":
        return first_seen(model.config, torch.from_numpy(ids)).numpy()
    return np.tri(len(ids), dtype=bool)


# --- what a run holds -----------------------------------------------------------------------------


@EACH_KIND
@pytest.mark.parametrize("decode", ["gold", "greedy"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_every_kept_weight_is_what_the_model_attends_to(
    data, models, tmp_path, kind, decode, batch_size
):
    keeps = ("--keep", "full", "--keep", "steps", "--keep", "pooled")
    model = loaded(models[kind]).model
    options = ("--max-new-tokens", 6) if decode == "greedy" else ()
    with extract(
        data, models[kind], tmp_path / "run", *keeps, "--decode", decode,
        "--batch-size", batch_size, *options,
    ) as run:  # fmt: skip
        assert run.info()["settings"]["route"] == "interception"
        assert run.records.worst_error.max() < 1e-5
        assert len(run.records) == 2 * N_TASKS
        for name in run.records.index:
            encoding = run.encoding(name)
            expected = weights_of(kind, model, encoding.ids).numpy()
            full = run.weights(name).values
            assert np.abs(np.nan_to_num(full) - expected).max() < 1e-4
            edges = [(group.start, group.stop) for group in encoding.groups]
            masses = np.stack([expected[..., a:b].sum(-1) for a, b in edges], -1)
            pooled = run.pooled(name)
            assert np.abs(pooled.values - masses).max() < 1e-4
            steps = list(encoding.step_queries)
            assert np.abs(run.step_mass(name).values - masses[:, :, steps]).max() < 1e-4
            seen = seen_by(kind, model, encoding.ids)
            counts = np.stack([seen[:, a:b].sum(-1) for a, b in edges], -1)
            assert (pooled.visible.values == counts).all()


@EACH_KIND
def test_rows_alone_are_the_same_rows(data, models, tmp_path, kind):
    model = loaded(models[kind]).model
    with extract(data, models[kind], tmp_path / "run", "--batch-size", 12) as run:
        for name in run.records.index:
            encoding = run.encoding(name)
            expected = weights_of(kind, model, encoding.ids)[:, :, list(encoding.step_queries)]
            found = np.nan_to_num(run.weights(name).values)
            assert np.abs(found - expected.numpy()).max() < 1e-4
            np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def roles(run, name):
    encoding = run.encoding(name)
    return [(span.role, "".join(encoding.texts[span.start : span.stop])) for span in encoding.spans]


HISTORY = "0 3 6 9 12"


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [("first", [], [("special", "[gMASK]<sop>")]), ("second", [("special", "[gMASK]sop")], []),
     ("third", [("special", "[gMASK]sop")], [])],
)  # fmt: skip
def test_marks_are_special_and_all_else_has_its_role(data, models, tmp_path, kind, before, after):
    with extract(data, models[kind], tmp_path / "run") as run:
        found = roles(run, "0/coarse")
    assert [role for role, _ in found] == [
        *(role for role, _ in before), "instruction", "template", "history", "template",
        *(role for role, _ in after), "coarse_answer", "template", "answer",
    ]  # fmt: skip
    assert found[: len(before)] == before
    of = dict(found)
    assert of["history"].split() == HISTORY.split()
    assert "求和" in of["instruction"]
    assert "预[1/3]预[2/3]预[3/3]" in of["instruction"]
    assert of["answer"].split() == ["0", "12", "23"]
    assert [pair for pair in found if pair[0] == "special"] == before + after


def test_the_chat_of_the_third_kind(data, models, tmp_path):
    with extract(data, models["third"], tmp_path / "run", "--chat") as run:
        found = roles(run, "0/stepwise")
        encoding = run.encoding("0/stepwise")
        expected = weights_of("third", loaded(models["third"]).model, encoding.ids)
        rows = np.nan_to_num(run.weights("0/stepwise").values)
        wanted = expected[:, :, list(encoding.step_queries)].numpy()
        assert np.abs(rows - wanted).max() < 1e-4
    assert found[0] == ("special", "[gMASK]sop<|user|>")
    assert ("special", "<|assistant|>") in found
    assert Counter(role for role, _ in found)["special"] == 2


@EACH_KIND
def test_what_a_model_writes_is_its_own_choice_token_by_token(data, models, tmp_path, kind):
    model = loaded(models[kind]).model
    with extract(
        data, models[kind], tmp_path / "run", "--decode", "greedy", "--batch-size", 5,
        "--max-new-tokens", 6,
    ) as run:  # fmt: skip
        for name in list(run.records.index)[:4]:
            encoding = run.encoding(name)
            for stop in range(encoding.n_prompt, encoding.n_tokens):
                ids = torch.from_numpy(encoding.ids[:stop].astype(np.int64))[None]
                with torch.no_grad():
                    assert int(model(ids).logits[0, -1].argmax()) == encoding.ids[stop]


@pytest.mark.parametrize("kind", ["first", "second"])
def test_a_learned_prefix_is_a_span_of_its_own(data, tmp_path, kind):
    model = save_chatglm(tmp_path / "model", kind, pre_seq_len=3)
    with extract(data, model, tmp_path / "run", "--batch-size", 5) as run:
        assert run.records.worst_error.max() < 1e-5
        encoding = run.encoding("0/coarse")
        assert (encoding.spans[0].role, len(encoding.spans[0])) == ("prefix", 3)
        rows = np.nan_to_num(run.weights("0/coarse").values)
        np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
        assert (rows[..., :3] > 0).all()


def mean_mass(run, model, kind, style):
    """Mean mass from answer tokens to the history, [layer, head], from the truth."""
    found = []
    for number in range(N_TASKS):
        encoding = run.encoding(f"{number}/{style}")
        spans = {span.role: span for span in encoding.spans}
        queries = np.arange(spans["answer"].start, spans["answer"].stop) - 1
        keys = slice(spans["history"].start, spans["history"].stop)
        truth = weights_of(kind, model, encoding.ids).numpy()
        keys = [key for key in range(keys.start, keys.stop) if key not in encoding.sinks]
        found.append(truth[:, :, queries][..., keys].sum(-1).mean(-1))
    return np.mean(found, 0)


@EACH_KIND
def test_contrast_verify_and_figures_work_on_such_a_run(data, models, tmp_path, kind):
    extract(data, models[kind], tmp_path / "run", "--keep", "rows", "--keep", "pooled").close()
    assert "no fault" in attnprobe("verify", tmp_path / "run", "--full")
    with open_run(tmp_path / "run") as run:
        found = contrast(run, a="coarse", b="stepwise", measure="mass")
        model = loaded(models[kind]).model
        expected = {style: mean_mass(run, model, kind, style) for style in ("coarse", "stepwise")}
        difference = expected["coarse"] - expected["stepwise"]
        np.testing.assert_allclose(found.effects["estimate"], difference, atol=1e-4)
    pair = ("--a", "coarse", "--b", "stepwise")
    attnprobe("contrast", tmp_path / "run", *pair, "-o", tmp_path / "contrast.csv")
    attnprobe("plot", "heads", tmp_path / "run", *pair, "-o", tmp_path / "heads.png")
    attnprobe("plot", "map", tmp_path / "run", "--record", "0/coarse", "-o", tmp_path / "map.png")
    attnprobe("plot", "segments", tmp_path / "run", *pair, "-o", tmp_path / "segments.png")
    assert all(
        (tmp_path / f"{name}.png").stat().st_size > 5_000 for name in ("heads", "map", "segments")
    )
