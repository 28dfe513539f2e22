"""`python -m training fetch` against a real server that breaks off, changes its mind and loses files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.open_data import ANIMALS, COLORS, PLACES
from tests.test_training_pipeline import training
from training import sources
from training.errors import TrainingError
from training.fetch import table
from training.fetch.table import Source

QUICK = ("--backoff", "0.01", "--timeout", "20", "--attempts", "4")
WORDS = "".join(f"word{number}\n" for number in range(40_000)).encode()
TABLE = """
base = "http://unused"
[sources.words]
repository = "someone/words"
licence = "CC0-1.0"
what = "words"
[[sources.words.files]]
path = "lists/words.txt"
commit = "0123456789abcdef0123456789abcdef01234567"
size = 400000
[[sources.words.conversions]]
form = "word list"
file = "lists/words.txt"
list = "nouns"
"""
PATH = "/someone/words/0123456789abcdef0123456789abcdef01234567/lists/words.txt"


@dataclass
class Home:
    """A public home of files. `script` says of the nth request of a path how to answer it; all are logged."""

    files: dict[str, bytes]
    script: Callable[[int], str] = lambda before: "whole"
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    sent: int = 0  # bytes of bodies
    closing: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    home: Home

    def do_GET(self) -> None:
        home = self.home
        how = home.script(len(home.log))
        home.log.append((self.path, self.headers.get("Range")))
        content = home.files.get(self.path)
        if how == "busy" or content is None:
            self._head(503 if how == "busy" else 404, 0, {"Retry-After": "0"})
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        start = self._start(tag)
        if start > len(content):
            self._head(416, 0, {"Content-Range": f"bytes */{len(content)}"})
            return
        body = content[start:]
        more = {"ETag": tag, **home.headers}
        if start:
            more["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, len(body), more)
        with contextlib.suppress(ConnectionError):
            self._body(body, how)

    def _start(self, tag: str) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        same = self.headers.get("If-Range") in (None, tag)
        return int(found[1]) if found and same and self.home.ranges else 0

    def _body(self, body: bytes, how: str) -> None:
        self.close_connection = how != "whole"
        half = body[: len(body) // 2]
        self.wfile.write(body if how == "whole" else half)
        self.wfile.flush()
        self.home.sent += len(body if how == "whole" else half)
        if how == "stall":
            self.home.closing.wait()

    def _head(self, status: int, length: int, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


@contextlib.contextmanager
def serving(home: Home) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"home": home}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        home.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "table.toml").write_text(TABLE)
    return tmp_path


def options(given: Path, url: str) -> list[object]:
    return [
        "fetch",
        "--data-dir",
        given / "data",
        "--sources",
        given / "table.toml",
        "--mirror",
        url,
        "--yes",
        *QUICK,
    ]


def downloaded(given: Path) -> Path:
    return given / "data" / "downloads" / "words" / "lists" / "words.txt"


def lock(given: Path) -> dict[str, Any]:
    return dict(json.loads((given / "data" / "sources.lock.json").read_text()))


def leftovers(given: Path) -> list[Path]:
    return [path for path in (given / "data").rglob("*") if path.suffix in (".part", ".etag", ".partial")]


def test_a_file_comes_whole_is_pinned_and_is_not_fetched_again(given: Path) -> None:
    home = Home({PATH: WORDS})
    with serving(home) as url:
        training(*options(given, url))
        training(*options(given, url))
    assert downloaded(given).read_bytes() == WORDS
    assert lock(given)[url + PATH]["sha256"] == hashlib.sha256(WORDS).hexdigest()
    assert lock(given)[url + PATH]["bytes"] == len(WORDS)
    assert len(home.log) == 1
    assert leftovers(given) == []
    lists = json.loads((given / "data" / "lists.json").read_text())
    assert len(lists["nouns"]["values"]) == 40_000
    assert (lists["nouns"]["source"], lists["nouns"]["licence"]) == ("words", "CC0-1.0")


def test_a_cut_connection_is_gone_on_with_where_it_broke_off(given: Path) -> None:
    home = Home({PATH: WORDS}, lambda before: ("cut", "busy", "cut", "whole")[before])
    with serving(home) as url:
        training(*options(given, url))
    assert downloaded(given).read_bytes() == WORDS
    assert [asked for _, asked in home.log] == [
        None,
        *[f"bytes={len(WORDS) // 2}-"] * 2,
        f"bytes={len(WORDS) * 3 // 4}-",
    ]
    assert home.sent == len(WORDS)  # no byte twice
    assert leftovers(given) == []


def test_a_killed_download_is_gone_on_with(given: Path) -> None:
    home = Home({PATH: WORDS}, lambda before: "whole" if before else "stall")
    part = downloaded(given).with_name("words.txt.part")
    with serving(home) as url:
        process = subprocess.Popen([sys.executable, "-m", "training", *map(str, options(given, url))],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        while not (part.is_file() and part.stat().st_size):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        have = part.stat().st_size
        training(*options(given, url))
    assert downloaded(given).read_bytes() == WORDS
    assert home.log[1] == (PATH, f"bytes={have}-")


def test_a_server_without_ranges_sends_it_all_again(given: Path) -> None:
    home = Home({PATH: WORDS}, lambda before: "whole" if before else "cut", ranges=False)
    with serving(home) as url:
        training(*options(given, url))
    assert downloaded(given).read_bytes() == WORDS


@pytest.mark.parametrize("length", [10, len(WORDS) + 10])
def test_leftovers_of_another_content_are_not_built_upon(given: Path, length: int) -> None:
    """One that is too short, of another version, and one that is longer than the file."""
    part = downloaded(given).with_name("words.txt.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * length)
    tag = hashlib.sha256(WORDS if length > len(WORDS) else b"other").hexdigest()[:16]
    part.with_name(part.name + ".etag").write_text(f'"{tag}"')
    home = Home({PATH: WORDS})
    with serving(home) as url:
        training(*options(given, url))
    assert home.log[0] == (PATH, f"bytes={length}-")
    assert downloaded(given).read_bytes() == WORDS
    assert leftovers(given) == []


def test_a_wrong_checksum_stops_the_run_and_nothing_of_it_is_kept(given: Path) -> None:
    (given / "table.toml").write_text(TABLE.replace("size =", f'sha256 = "{"0" * 64}"\nsize ='))
    with serving(Home({PATH: WORDS})) as url:
        said = training(*options(given, url), code=1)
    assert f"its SHA-256 is {hashlib.sha256(WORDS).hexdigest()}, pinned is {'0' * 64}" in said
    assert not downloaded(given).exists()
    assert leftovers(given) == []
    assert not (given / "data" / "lists.json").exists()


def test_a_content_that_changed_since_it_was_pinned_is_refused(given: Path) -> None:
    home = Home({PATH: WORDS})
    with serving(home) as url:
        training(*options(given, url))
        home.files[PATH] = WORDS + b"another\n"
        downloaded(given).write_bytes(b"damaged on the disk")
        said = training(*options(given, url), code=1)
        assert "the content was changed, or damaged on its way" in said
        home.files[PATH] = WORDS
        training(*options(given, url))
    assert downloaded(given).read_bytes() == WORDS


def test_a_file_that_is_gone_is_named_at_once(given: Path) -> None:
    home = Home({})
    with serving(home) as url:
        said = training(*options(given, url), code=1)
    assert f"{url}{PATH} answered 404" in said
    assert len(home.log) == 1


def test_a_compressed_answer_is_refused_since_its_sum_would_be_another(given: Path) -> None:
    with serving(Home({PATH: WORDS}, headers={"Content-Encoding": "gzip"})) as url:
        assert "comes as gzip, though identity was asked for" in training(*options(given, url), code=1)


def test_what_never_gets_better_is_given_up_and_offline_says_what_to_set(given: Path) -> None:
    home = Home({PATH: WORDS}, lambda before: "busy")
    with serving(home) as url:
        assert "status 503, 4 times in a row" in training(*options(given, url), code=1)
    assert len(home.log) == 4
    said = training(*options(given, url), code=1)  # nobody listens there any more
    assert "ConnectError" in said
    assert "name it with --data-dir or PROMPTDIAL_DATA_DIR" in said


def test_nothing_is_downloaded_before_it_was_shown_and_agreed_to(given: Path) -> None:
    home = Home({PATH: WORDS})
    with serving(home) as url:
        arguments = [argument for argument in options(given, url) if argument != "--yes"]
        result = subprocess.run([sys.executable, "-m", "training", *map(str, arguments)],
                                capture_output=True, text=True, check=False, timeout=300)  # fmt: skip
        assert result.returncode == 1
        assert "nothing was downloaded: --yes goes on" in result.stderr
        assert home.log == []
        assert not (given / "data").exists()
        for told in (
            "licence CC0-1.0",
            "about 400.0 kB",
            "sha256 not known yet, pinned at the first download",
        ):
            assert told in result.stdout
        training(*options(given, url))
    shown = subprocess.run([sys.executable, "-m", "training", *map(str, arguments), "--list"],
                           capture_output=True, text=True, check=True, timeout=300).stdout  # fmt: skip
    assert f"sha256 {hashlib.sha256(WORDS).hexdigest()}" in shown


def test_a_folder_of_other_data_is_left_alone(given: Path) -> None:
    (given / "data").mkdir()
    (given / "data" / "pairs.jsonl").write_text("")
    assert "holds pairs.jsonl, which is not from here" in training(
        *options(given, "http://127.0.0.1:1"), code=1
    )
    assert "no folder: give --data-dir or set PROMPTDIAL_DATA_DIR" in training("fetch", "--yes", code=1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lists/words.txt", "../../words.txt", "leaves the folder"),
        ('form = "word list"', 'form = "poem"', "'poem' is no form"),
        ('list = "nouns"', "", "lacks 'list'"),
        ('file = "lists/words.txt"', 'file = "other.txt"', "none of its files"),
        ("size = 400000", 'size = 1\ncolour = "red"', "colour"),
        ("[sources", "[sources", ""),
    ],
)
def test_a_table_that_can_t_be_used_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "table.toml").write_text(TABLE.replace(old, new))
    if not said:
        assert table.load(tmp_path / "table.toml").sources[0].files[0].size == 400_000
        return
    with pytest.raises(TrainingError, match=re.escape(said)):
        table.load(tmp_path / "table.toml")


def test_every_url_of_the_own_table_names_a_commit() -> None:
    known = table.load()
    urls = [known.url(source, file) for source in known.sources for file in source.files]
    assert len(set(urls)) == len(urls) > 30
    for url in urls:
        assert re.fullmatch(
            r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/[\w./-]+", url
        ), url
    assert all(source.licence and sources.credit(source.name) != source.name for source in known.sources)


def _stand_in(source: Source) -> dict[str, bytes]:
    """Content for every file of a source in the form that its conversion expects."""
    rng = random.Random(source.name)
    made: dict[str, bytes] = {}
    for each in source.conversions:
        for place in ("inputs", "outputs", "file"):
            if place in each.fields:
                made[each.fields[place]] = _content(each.form, place, each.fields, rng).encode()
    return made


def _content(form: str, place: str, fields: dict[str, str], rng: random.Random) -> str:
    def sentence() -> str:
        own = "".join(rng.choices("bdfgklmnprst", k=6))
        return (
            f"A {rng.choice(COLORS)} {rng.choice(ANIMALS)} {own} rests near the {rng.choice(PLACES)} at dawn."
        )

    if form == "line pairs":
        rows = [
            sentence() if place == "inputs" else f"{sentence()} {sentence()} {sentence()}" for _ in range(20)
        ]
        return "\n".join(rows)
    if form == "line texts":
        return "".join(sentence() + "\n" for _ in range(30))
    if form == "imageinwords":
        labels = [{"label": "Fox"}, {"label": "Snow"}]
        rows = [
            json.dumps({"IIW": sentence() * 3, "IIW-P5B": sentence() * 2, "objects": labels})
            for _ in range(9)
        ]
        return "\n".join(rows) + "\n"
    if form == "styles":
        styles = [("base", "{prompt}"), ("line art", "line art of {prompt} . clean")]
        return json.dumps([{"name": n, "prompt": p, "negative_prompt": ""} for n, p in styles])
    if fields["file"].endswith(".json"):
        return json.dumps(
            {"description": "words", fields.get("key", "adjs"): [f"{place} thing" for place in PLACES]}
        )
    return "\n".join(PLACES)


def test_the_own_table_gives_a_folder_that_can_be_prepared(tmp_path: Path, tiny_bundle: Path) -> None:
    known = table.load()
    files = {}
    for source in known.sources:
        content = _stand_in(source)
        for file in source.files:
            files[known.url(source, file).removeprefix(known.base)] = content[file.path]
    home = Home(files, lambda before: "cut" if before % 7 == 3 else "whole")
    with serving(home) as url:
        training("fetch", "--data-dir", tmp_path / "data", "--mirror", url, "--yes", *QUICK)
    data = sources.load(tmp_path / "data")
    pairs = {
        source: [row for row in data.pairs if row["source"] == source]
        for source in ("vbench-category", "imageinwords")
    }
    assert len(pairs["vbench-category"]) == 5 * 20
    assert {(row["kind"], row["modality"], row["teacher"]) for row in pairs["vbench-category"]} == {
        ("expand", "video", "gpt-4o")
    }
    assert {row["input"] for row in pairs["imageinwords"]} == {"Fox, Snow"}
    assert {row["split"] for row in data.pairs} == {"train", "eval"}
    assert len(data.texts) == 2 * 9 + 6 * 30
    assert [style["name"] for style in data.styles] == ["line art"]
    training("prepare", "--data-dir", tmp_path / "data", "--out", tmp_path / "episodes", "--scorer", tiny_bundle,
             "--generated", "60", "--written", "60")  # fmt: skip
    card = (tmp_path / "episodes" / "CARD.md").read_text()
    assert "| vbench-category | Apache-2.0 |" in card
    assert "| generated |" in card


def test_lines_that_don_t_match_are_refused(tmp_path: Path) -> None:
    known = table.load()
    source = known.only(["vbench-category"])[0]
    files = {known.url(source, file).removeprefix(known.base): b"one line\n" for file in source.files}
    first = known.url(source, source.files[0]).removeprefix(known.base)
    files[first] = b"one line\nand another\n"
    with serving(Home(files)) as url:
        said = training("fetch", "--data-dir", tmp_path / "data", "--mirror", url, "--yes", "--source",
                        "vbench-category", code=1)  # fmt: skip
    assert "2 inputs but 1 outputs" in said
    assert "there is no source 'nowhere'" in training("fetch", "--list", "--source", "nowhere", code=1)


def test_the_environment_names_the_folder(given: Path) -> None:
    with serving(Home({PATH: WORDS})) as url:
        arguments = [each for each in options(given, url) if each not in ("--data-dir", given / "data")]
        training(*arguments, PROMPTDIAL_DATA_DIR=str(given / "data"))
    assert downloaded(given).read_bytes() == WORDS
