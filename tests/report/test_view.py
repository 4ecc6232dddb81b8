import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from attnprobe.cli import app
from attnprobe.errors import FormatError, MeasureError, ReportError, SelectionError
from attnprobe.report import serving
from attnprobe.report.address import Address, listen
from attnprobe.report.serving import new_token, opened_in_browser, serve, view_app

TOKEN = "a-token-that-is-not-guessed"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def address():
    found = listen()
    yield found
    found.socket.close()


class Pieces:
    """Stands in for a run: answers what it is asked, and remembers."""

    def __init__(self):
        self.asked, self.inside = [], 0

    def answer(self, name, query):
        self.inside += 1
        assert self.inside == 1, "two threads read at once"
        time.sleep(0.01)
        self.inside -= 1
        self.asked.append((name, dict(query)))
        if name == "record":
            raise SelectionError("no record '<b>'", where="run")
        if name == "attention":
            raise MeasureError("the run does not hold attention rows")
        if name == "head":
            raise FormatError("the shard is damaged")
        return {"name": name, "字": None}


def client(address, pieces=None, host="127.0.0.1"):
    asgi = view_app(pieces or Pieces(), "a run", TOKEN, address)
    return TestClient(asgi, base_url=f"http://{host}:{address.port}", follow_redirects=False)


# The address


def test_by_default_only_this_machine_is_let_in(address):
    assert not address.is_remote
    assert address.origin == f"http://127.0.0.1:{address.port}"
    assert address.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_addresses_that_others_reach_are_refused_unless_told(host):
    with pytest.raises(ReportError) as caught:
        listen(host)
    assert str(caught.value) == (
        f"--host: other machines could reach the run at this address; got {host}, expected this "
        "machine alone, such as 127.0.0.1; tunnel to it (ssh -L 8000:localhost:8000 with --port "
        "8000), or add --allow-remote to let in everyone who has the link, unencrypted."
    )


def test_what_is_no_address_of_this_machine(address):
    with pytest.raises(ReportError, match="--host: no such host; got 'no such host'"):
        listen("no such host", allow_remote=True)
    with pytest.raises(ReportError, match=r"--host 192.0.2.1 --port 0: cannot listen there; got "):
        listen("192.0.2.1", allow_remote=True)
    with pytest.raises(ReportError, match=r"--port: no port; got 65536, expected 0 \(any\) to"):
        listen(port=65536)
    with pytest.raises(ReportError) as caught:
        listen(port=address.port)
    assert str(caught.value) == (
        f"--host 127.0.0.1 --port {address.port}: cannot listen there; got Address already in "
        "use; leave out --port for one that is free."
    )


@pytest.mark.parametrize(
    ("host", "remote", "header", "ours"),
    [
        ("127.0.0.1", False, "127.0.0.1:8000", True),
        ("127.0.0.1", False, "localhost:9000", True),  # behind a tunnel, another port
        ("127.0.0.1", False, "LOCALHOST", True),
        ("127.0.0.1", False, "[::1]:8000", True),
        ("127.0.0.1", False, "evil.example:8000", False),
        ("127.0.0.1", False, "localhost.evil.example", False),
        ("127.0.0.1", False, "192.0.2.7:8000", False),
        ("127.0.0.1", False, "", False),
        ("0.0.0.0", True, "192.0.2.7:8000", True),  # no name, so none that was pointed here
        ("0.0.0.0", True, f"{socket.gethostname()}:1", True),
        ("0.0.0.0", True, "evil.example:8000", False),
    ],
)
def test_requests_must_call_this_machine_by_its_name(host, remote, header, ours):
    found = listen(host, allow_remote=remote)
    found.socket.close()
    assert found.is_remote == remote
    assert found.is_named(header) == ours


# What is let through


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/overview",
        "/{}x/",
        "/{}x/api/overview",
        "/x{}/",
        "//{}/",
        "/x/{}/",
        "/é/",
        "/%00/",
    ],
)
def test_without_the_token_there_is_nothing(path, address):
    pieces = Pieces()
    answer = client(address, pieces).get(path.format(TOKEN))
    assert (answer.status_code, answer.text) == (404, "Not Found")
    assert pieces.asked == []


def test_the_page_and_its_pieces(address):
    pieces = Pieces()
    reader = client(address, pieces)
    page = reader.get(f"/{TOKEN}/")
    assert page.status_code == 200
    assert 'name="attnprobe-source" content="served"' in page.text
    assert "<title>a run</title>" in page.text
    assert TOKEN not in page.text
    piece = reader.get(f"/{TOKEN}/api/overview?id=a%2Fb&layer=3")
    assert piece.json() == {"name": "overview", "字": None}
    assert pieces.asked == [("overview", {"id": "a/b", "layer": "3"})]
    assert reader.head(f"/{TOKEN}/").status_code == 200
    assert reader.get(f"/{TOKEN}/elsewhere").status_code == 404
    assert reader.get(f"/{TOKEN}/api/../../../etc/passwd").status_code == 404


@pytest.mark.parametrize("path", ["/", f"/{TOKEN}/", f"/{TOKEN}/api/overview", f"/{TOKEN}/none"])
def test_every_answer_stays_with_the_reader(path, address):
    headers = client(address).get(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "set-cookie" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(method, address):
    pieces = Pieces()
    for path in (f"/{TOKEN}/", f"/{TOKEN}/api/overview"):
        answer = client(address, pieces).request(method, path)
        assert (answer.status_code, answer.text) == (405, "This is for reading.")
        assert answer.headers["allow"] == "GET, HEAD"
    assert pieces.asked == []


def test_a_foreign_name_for_this_machine_is_refused_even_with_the_token(address):
    answer = client(address, host="evil.example").get(f"/{TOKEN}/")
    assert (answer.status_code, answer.text) == (421, "This machine goes by another name.")


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("record", 404, "run: no record '<b>'."),
        ("attention", 409, "the run does not hold attention rows."),
        ("head", 500, "the shard is damaged."),
    ],
)
def test_what_cannot_be_shown_is_answered_in_words(name, status, text, address):
    answer = client(address).get(f"/{TOKEN}/api/{name}")
    assert (answer.status_code, answer.text) == (status, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_run_is_read_by_one_thread_at_a_time(address):
    pieces = Pieces()
    reader = client(address, pieces)
    links = [f"/{TOKEN}/api/records?n={i}" for i in range(8)]
    threads = [threading.Thread(target=reader.get, args=(link,)) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pieces.asked) == 8


def test_tokens_are_long_and_never_the_same():
    assert new_token() != new_token()
    assert len(new_token()) >= 43
    assert re.fullmatch(r"[\w-]+", new_token())


def test_the_browser_is_led_by_a_file_that_only_its_owner_can_read(monkeypatch):
    opened = []
    monkeypatch.setattr(serving.webbrowser, "open", lambda link: opened.append(link) or True)
    with opened_in_browser("http://127.0.0.1:1/to&ken/"):
        (link,) = opened
        file = Path(link.removeprefix("file://"))
        assert "ken" not in link
        assert 'url=http://127.0.0.1:1/to&amp;ken/"' in file.read_text()
        assert file.parent.stat().st_mode & 0o077 == 0
    assert not file.exists()


# The command


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    from attnprobe.workflows.extract import ExtractSettings, extract
    from tests.tiny import make_record, save_model

    folder = tmp_path_factory.mktemp("view")
    records = [make_record(n, style) for n in range(4) for style in ("coarse", "stepwise")]
    save_model(folder / "model")
    settings = ExtractSettings(keep=("rows",), device="cpu")
    extract(records, str(folder / "model"), folder / "run", settings).close()
    return folder / "run"


def test_the_command_says_what_is_wrong(run_folder, tmp_path):
    remote = CliRunner().invoke(app, ["view", str(run_folder), "--host", "0.0.0.0"])
    assert remote.exit_code == 2
    assert "other machines could reach the run at this address; got 0.0.0.0" in remote.output
    absent = CliRunner().invoke(app, ["view", str(tmp_path / "none")])
    assert absent.exit_code == 2
    assert str(tmp_path / "none") in absent.output
    style = CliRunner().invoke(app, ["view", str(run_folder), "--a", "coars"])
    assert "no style 'coars'; did you mean 'coarse'" in style.output


def test_without_the_extra_it_is_named():
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from typer.testing import CliRunner; from attnprobe.cli import app\n"
        "print(CliRunner().invoke(app, ['view', 'run']).output)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'viewing a run needs uvicorn; run: pip install "attnprobe[view]"' in done.stdout


def test_the_command_serves_until_it_is_interrupted(run_folder):
    command = [sys.executable, "-m", "attnprobe", "view", str(run_folder), "--no-browser"]
    viewing = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        link = viewing.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{43}/", link), viewing.stderr.read()
        with urllib.request.urlopen(link, timeout=60) as answer:
            assert b"attnprobe-source" in answer.read()
            assert answer.headers["server"] is None
        with urllib.request.urlopen(f"{link}api/attention?id=item-000/coarse") as answer:
            assert b'"queries"' in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{link[:-2]}_/")
        viewing.send_signal(signal.SIGINT)
        _, said = viewing.communicate(timeout=60)
    finally:
        viewing.kill()
    assert viewing.returncode == 0
    assert said.splitlines() == [f"comparing styles in {run_folder}", "Ctrl-C ends it", "ended"]


# In the browser


@pytest.fixture
def served(run_folder):
    from attnprobe.store import open_run
    from attnprobe.workflows.reporting import report_payload

    address: Address = listen()
    with open_run(run_folder) as run:
        server = serve(view_app(report_payload(run), "a run", TOKEN, address), address)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [address.socket]})
        thread.start()
        yield f"{address.origin}/{TOKEN}/"
        server.should_exit = True
        thread.join()
    address.socket.close()


def test_what_is_clicked_is_read_and_nothing_else(served, watched):
    page = watched.page
    page.goto(served)
    page.locator("body[data-head][data-record]").wait_for()
    assert page.title() == "a run"
    page.locator("#layer").select_option("2")
    page.locator("#head").select_option("3")
    page.locator("body[data-head='2.3']").wait_for()
    before = len(watched.requests)
    page.locator("#f-id").fill("item-001")
    page.locator("#table").get_by_role("button", name="item-001/coarse").click()
    page.locator("body[data-record='item-001/coarse']").wait_for()
    assert {url.removeprefix(served) for url in watched.requests[before:]} == {
        f"api/{asked}"
        for style in ("coarse", "stepwise")
        for asked in (
            f"record?id=item-001%2F{style}",
            f"attention?id=item-001%2F{style}&layer=2&head=3",
        )
    }

    side = page.locator("#sides .side").first
    side.locator(".token.step").nth(2).hover()
    assert side.locator(".step-info").inner_text() != ""
    coloured = "all => all.filter(t => getComputedStyle(t).backgroundColor.includes('rgb')).length"
    assert side.locator(".token").evaluate_all(coloured) > 3
    assert watched.complaints == []
    assert watched.asked_elsewhere(served) == []


def test_a_link_into_the_page_reopens_the_view(served, watched):
    page = watched.page
    page.goto(f"{served}#head=1.2&record=item-002%2Fstepwise&lang=zh")
    page.locator("body[data-record='item-002/stepwise']").wait_for()
    assert page.evaluate("document.body.dataset.head") == "1.2"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert watched.complaints == []
    assert watched.asked_elsewhere(served) == []
