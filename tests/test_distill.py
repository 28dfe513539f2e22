"""`python -m training distill` against a real server that misbehaves: nothing lost, nothing doubled, all counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.teacher_server import CERTIFICATE, Teacher, answer_to, faulty, serving
from training import sources
from training.errors import TrainingError
from training.teacher import templates
from training.teacher.answers import judge
from training.teacher.endpoint import Endpoint, Unanswered
from training.teacher.journal import Answer
from training.teacher.pace import Pace, retry_after
from training.teacher.replies import STREAMED

TASK = """
task = "expand"
modality = "image"
share = 1.0
lengths = { 25 = 1.0 }
system = "Describe it in about {length} words."

[[examples]]
input = "a fox"
output = "A red fox stands in deep snow at the edge of a forest. Its fur is dusted with frost."
"""
PASSES_SOON = ("--backoff", "0.01", "--timeout", "10")


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with one task template and 200 inputs."""
    write_task(tmp_path)
    write_inputs(tmp_path, 200)
    return tmp_path


def write_task(folder: Path) -> None:
    """`tasks` with one template in it."""
    (folder / "tasks").mkdir()
    (folder / "tasks" / "expand-image.toml").write_text(TASK)


def write_inputs(folder: Path, count: int) -> None:
    """So many different inputs, each ending in its number."""
    rng = random.Random(1)
    words = ["".join(rng.choices("bdfgklmnprstv", k=3)) + rng.choice("aeiou") + "n" for _ in range(count)]
    (folder / "inputs.txt").write_text("".join(f"a {word} number {i}\n" for i, word in enumerate(words)))


def command(given: Path, url: str, scorer: Path, *more: str) -> list[str]:
    """The command line of a run into `given / "run"`."""
    return [sys.executable, "-m", "training", "distill", "--teacher", url, "--model", "tiny", "--licence", "MIT",
            "--out", str(given / "run"), "--inputs", str(given / "inputs.txt"), "--templates", str(given / "tasks"),
            "--scorer", str(scorer), "--concurrency", "8", *PASSES_SOON, *more]  # fmt: skip


def distill(given: Path, url: str, scorer: Path, *more: str, code: int = 0, **environment: str) -> str:
    """Run the command to its end; its standard error."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(command(given, url, scorer, *more), env=settings, capture_output=True, text=True,
                            check=False, timeout=300)  # fmt: skip
    assert result.returncode == code, result.stderr
    return result.stderr


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def report(given: Path) -> dict[str, Any]:
    return dict(json.loads((given / "run" / "report.json").read_text()))


def test_of_a_thousand_requests_all_are_answered_that_can_be_and_the_report_counts_what_the_server_did(
    given: Path, tiny_bundle: Path
) -> None:
    """A fifth of the attempts fails in a way that passes, and thirty requests can't be answered at all."""
    write_inputs(given, 1000)
    passing = faulty(0.2, seed=3)

    def script(asked: str, before: int) -> str:
        hopeless = {7: "refuse", 17: "half", 27: "error"}.get(number_of(asked) % 100)
        return hopeless or passing(asked, before)

    teacher = Teacher(script)
    with serving(teacher) as url:
        distill(given, url, tiny_bundle, "--concurrency", "32")
    asked = [line for line in (given / "inputs.txt").read_text().splitlines()
             if number_of(line) % 100 not in (7, 17, 27)]  # fmt: skip
    answers = lines(given / "run" / "answers.jsonl")
    assert sorted(row["text"] for row in answers) == sorted(answer_to(text) for text in asked)
    told = report(given)
    assert told["attempts"] == dict(teacher.outcomes)
    assert set(teacher.outcomes) == {"200", "400", "429", "500", "broken body", "endless body", "connection"}
    assert told["answered"] == 970 and sum(told["given_up"].values()) == 30
    assert (told["given_up"]["broken body"], told["given_up"]["500"]) == (10, 10)
    assert told["completion_tokens"] == sum(len(answer_to(text).split()) for text in asked)
    assert told["tokens_estimated"] == 0 and told["served_models"] == {"tiny": 970}
    assert sum(told["reasons"].values()) == 970


def number_of(asked: str) -> int:
    """The number at the end of an input."""
    return int(asked.rsplit(maxsplit=1)[-1])


def test_a_streamed_answer_is_read_like_a_whole_one(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher(
        lambda asked, before: "stream" if before else ("cut stream", "stream")[number_of(asked) % 2]
    )
    with serving(teacher) as url:
        distill(given, url, tiny_bundle)
    asked = (given / "inputs.txt").read_text().splitlines()
    answers = lines(given / "run" / "answers.jsonl")
    assert sorted(row["text"] for row in answers) == sorted(answer_to(text) for text in asked)
    assert report(given)["attempts"] == dict(teacher.outcomes) == {"200": 200, "broken body": 100}
    assert report(given)["completion_tokens"] == sum(len(answer_to(text).split()) for text in asked)


def test_a_stream_without_counts_and_without_its_last_line_is_a_whole_answer(
    given: Path, tiny_bundle: Path
) -> None:
    with serving(Teacher(lambda asked, before: "bare stream")) as url:
        distill(given, url, tiny_bundle, "--count", "20")
    answers = lines(given / "run" / "answers.jsonl")
    asked = (given / "inputs.txt").read_text().splitlines()
    assert {row["text"] for row in answers} <= {answer_to(text) for text in asked}
    assert report(given)["answered"] == report(given)["tokens_estimated"] == 20
    assert all(row["completion_tokens"] == -(-len(row["text"]) // 4) for row in answers)


@pytest.mark.parametrize("sent", ["whole", "stream", "bare stream"])
@pytest.mark.parametrize("wanted", [{}, STREAMED])
def test_what_came_is_read_as_what_it_is_whichever_was_asked_for(sent: str, wanted: dict[str, Any]) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a fox"}], "max_tokens": 60, **wanted}

    async def ask(url: str) -> Answer:
        endpoint = Endpoint(url, None, Pace(None, None), attempts=1)
        async with endpoint.client() as client:
            return await endpoint.ask(client, body)

    with serving(Teacher(lambda asked, before: sent)) as url:
        answer = asyncio.run(ask(url))
    assert answer.text == answer_to("a fox") and answer.finish_reason == "stop"
    assert answer.counted == (sent != "bare stream")
    assert answer.total_s is not None
    if sent == "whole":
        assert answer.first_s is None
    else:
        assert answer.first_s is not None and 0 < answer.first_s <= answer.total_s


def test_a_connection_that_brought_a_server_error_is_not_used_again() -> None:
    """Also not if all of its body came with its head: aiohttp gives such a connection back before one can close it."""
    assert _asked_of_a_server([b"500 Oops", b"503 Oops", b"429 Busy", b"200 OK", b"200 OK"]) == (
        [1, 2, 3, 3, 3],
        {"500": 1, "503": 1, "429": 1, "200": 2},
    )


def test_the_proxy_that_the_environment_names_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    assert _asked_of_a_server([b"200 OK"], through=monkeypatch) == ([1], {"200": 1})
    monkeypatch.setenv("NO_PROXY", ".invalid")
    assert _asked_of_a_server([b"200 OK"], through=monkeypatch) == ([], {"connection": 1})
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(TrainingError, match="a proxy of socks5: only those of HTTP"):
        Endpoint("http://teacher.invalid/v1", None, Pace(None, None)).client()


def _asked_of_a_server(
    statuses: list[bytes], through: pytest.MonkeyPatch | None = None
) -> tuple[list[int], dict[str, int]]:
    """One request for each status: the connections that they came over, and the client's outcomes.

    With `through`, the server is a proxy that the environment names.
    """
    content = json.dumps({"choices": [{"message": {"content": "A fox."}, "finish_reason": "stop"}]}).encode()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a fox"}], "max_tokens": 60}
    came: list[int] = []
    opened = iter(range(1, 100))

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(opened)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
                came.append(number)
                length = b"Content-Length: %d" % len(content)
                writer.write(b"HTTP/1.1 %s\r\n%s\r\n\r\n%s" % (statuses[len(came) - 1], length, content))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def ask() -> dict[str, int]:
        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if through:
            through.setenv("HTTP_PROXY", address)
        endpoint = Endpoint(
            f"{'http://teacher.invalid' if through else address}/v1", None, Pace(None, None), attempts=1
        )
        async with endpoint.client() as client:
            for _ in statuses:
                with contextlib.suppress(Unanswered):
                    await endpoint.ask(client, body)
        server.close()
        return dict(endpoint.outcomes)

    outcomes = asyncio.run(ask())
    return came, outcomes


def test_half_a_surrogate_pair_in_an_answer_does_not_end_the_run(given: Path, tiny_bundle: Path) -> None:
    with serving(Teacher(lambda asked, before: "odd text")) as url:
        distill(given, url, tiny_bundle, "--count", "5")
    assert all(" ? " in row["text"] for row in lines(given / "run" / "answers.jsonl"))
    assert report(given)["answered"] == 5


def test_broken_handshakes_are_counted_and_tried_again(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher(faulty(0.2, seed=4), broken_handshakes=0.4)
    with serving(teacher, tls=True) as url:
        # Server errors end connections, and four of ten new ones break: six attempts leave some without an answer.
        distill(given, url, tiny_bundle, "--attempts", "20", SSL_CERT_FILE=str(CERTIFICATE))
    assert report(given)["answered"] == 200
    assert report(given)["attempts"] == dict(teacher.outcomes)
    assert teacher.outcomes["TLS"] > 5


def test_a_certificate_that_nobody_vouches_for_stops_the_run_at_once(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher()
    with serving(teacher, tls=True) as url:
        said = distill(given, url, tiny_bundle, code=1)
    assert "the certificate of https://127.0.0.1" in said and "self-signed certificate" in said
    assert "SSL_CERT_FILE" in said
    assert not teacher.log


def test_a_model_that_the_server_does_not_have_stops_the_run_with_the_server_s_words(
    given: Path, tiny_bundle: Path
) -> None:
    teacher = Teacher(model="another")
    with serving(teacher) as url:
        said = distill(given, url, tiny_bundle, code=1)
    assert 'answered 404: {"error": {"message": "no"}}' in said
    assert 1 <= len(teacher.log) <= 8
    assert report(given)["attempts"]["404"] >= 1


def test_rows_follow_from_the_answers_and_can_be_prepared(given: Path, tiny_bundle: Path) -> None:
    with serving(Teacher()) as url:
        distill(given, url, tiny_bundle, "--source", "tiny-distilled")
    rows = sources.read_pairs(given / "run" / "pairs.jsonl")
    assert len(rows) == report(given)["accepted"] > 100
    answers = {row["key"]: row for row in lines(given / "run" / "answers.jsonl")}
    for row in rows:
        assert answers[row["id"]]["text"] == row["output"] == answer_to(row["input"])
        assert (row["source"], row["teacher"], row["kind"], row["modality"]) == (
            "tiny-distilled",
            "tiny",
            "expand",
            "image",
        )
    assert sources.credit(rows[0]["source"]) == "Written by tiny"
    assert rows[0]["template_hash"] == templates.load(given / "tasks" / "expand-image.toml").digest
    assert pq.read_table(given / "run" / "shards" / "pairs-00000.parquet").to_pylist() == rows
    told = (given / "run" / "REPORT.md").read_text()
    assert "200 of 200 requests answered" in told
    assert "| template | words |" in told


def test_what_can_t_be_answered_is_given_up_and_counted(given: Path, tiny_bundle: Path) -> None:
    def script(asked: str, before: int) -> str:
        faults = {0: "refuse", 1: "error", 2: "dribble", 3: "hang"}
        return faults.get(number_of(asked), "answer")

    teacher = Teacher(script)
    with serving(teacher) as url:
        distill(given, url, tiny_bundle, "--attempts", "2", "--timeout", "5")
    assert report(given)["attempts"] == dict(teacher.outcomes)
    given_up = report(given)["given_up"]
    assert sum(count for how, count in given_up.items() if how.startswith("400")) == 1
    assert (given_up["500"], given_up["timeout"]) == (1, 2)
    assert report(given)["answered"] == 196
    assert report(given)["stopped"] == "with requests left"


def test_killing_the_run_twenty_times_loses_nothing_and_repeats_what_was_in_flight_alone(
    given: Path, tiny_bundle: Path
) -> None:
    """Every fourth kill comes at a random time after the start, the others at one after the first new answer."""
    log, rng = given / "server.log", random.Random(7)
    write_inputs(given, 400)
    asked = (given / "inputs.txt").read_text().splitlines()
    server = subprocess.Popen([sys.executable, "-m", "tests.teacher_server", str(log), "0.1", "5", "0.05"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert server.stdout is not None
    journal = given / "run" / "answers.jsonl"
    kept: list[bytes] = []
    kills: list[tuple[int, int]] = []  # answers stored, requests that the server had got
    try:
        url = server.stdout.readline().strip()
        for kill in range(20):
            process = subprocess.Popen(command(given, url, tiny_bundle), stderr=subprocess.DEVNULL)
            if kill % 4:
                while _lines_of(journal) == len(kept):
                    assert process.poll() is None
                    time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.2) if kill % 4 else rng.uniform(0, 1.5))
            process.kill()
            process.wait()
            now = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
            assert now[: len(kept)] == kept
            kept = now
            kills.append((len(kept), _lines_of(log)))
        assert 0 < len(kept) < 400
        distill(given, url, tiny_bundle)
    finally:
        server.communicate("")
    answers = lines(journal)
    assert sorted(row["text"] for row in answers) == sorted(map(answer_to, asked))
    assert [json.loads(line) for line in kept] == answers[: len(kept)]
    rows = lines(given / "run" / "pairs.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == report(given)["accepted"]
    served = [json.loads(line) for line in log.read_text().splitlines()]
    for stored, got in kills:
        known = {row["text"] for row in answers[:stored]}
        assert not [
            text for _, text in served[got:] if answer_to(text) in known
        ]  # no stored answer is asked again
    assert (
        sum(done == "answer" for done, _ in served) - 400 <= 20 * 8
    )  # eight requests are in flight at a time


def _lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_line_cut_off_by_a_crash_is_asked_again(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher()
    with serving(teacher) as url:
        distill(given, url, tiny_bundle)
        journal = given / "run" / "answers.jsonl"
        whole = journal.read_bytes()
        journal.write_bytes(whole[:-30])
        said = distill(given, url, tiny_bundle)
    assert "199 answers were there already" in said
    assert len(teacher.log) == 201
    assert sorted(row["key"] for row in lines(journal)) == sorted(
        json.loads(line)["key"] for line in whole.splitlines()
    )


def test_an_interrupted_run_reports_and_goes_on(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher(lambda asked, before: "hang" if len(teacher.log) == 50 else "answer")
    with serving(teacher) as url:
        process = subprocess.Popen(
            command(given, url, tiny_bundle, "--timeout", "200"), stderr=subprocess.PIPE, text=True
        )
        while len(teacher.log) < 200:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert report(given)["answered"] >= 200 - 2 * 8
        distill(given, url, tiny_bundle)
    assert report(given)["answered"] == 200


def test_retry_after_holds_back_every_request(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher(lambda asked, before: "busy" if len(teacher.log) == 0 else "answer", retry_after="2")
    with serving(teacher) as url:
        distill(given, url, tiny_bundle, "--count", "6", "--concurrency", "1")
    (_, _, first), (_, _, second), *_ = teacher.log
    assert second - first >= 1.9
    assert report(given)["answered"] == 6


@pytest.mark.parametrize("pace", [Pace(600, None), Pace(None, 60_000)])
def test_no_more_is_asked_in_a_minute_than_allowed(pace: Pace) -> None:
    """Ten requests of 100 tokens a second, after one second's worth at once."""

    async def ask_all() -> None:
        await asyncio.gather(*(pace.wait(100) for _ in range(30)))

    before = time.monotonic()
    asyncio.run(ask_all())
    assert time.monotonic() - before >= (30 - 11) / 10


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("2", 2.0), ("-1", 0.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_budget_is_not_overrun(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher()
    with serving(teacher) as url:
        distill(given, url, tiny_bundle, "--max-tokens", "5000")
        spent = report(given)["prompt_tokens"] + report(given)["completion_tokens"]
        assert 4000 < spent <= 5000
        assert report(given)["stopped"] == "the token budget is spent"
        distill(given, url, tiny_bundle, "--max-cost", "0.01", "--price-in", "1", "--price-out", "2")
    assert 0.005 < report(given)["cost"] <= 0.01
    assert report(given)["answered"] == len(teacher.log) < 200


def test_a_refused_key_stops_the_run_with_the_server_s_words(given: Path, tiny_bundle: Path) -> None:
    with serving(Teacher()) as url:
        said = distill(
            given, url.replace("/v1", "/v1/unknown"), tiny_bundle, "--api-key-env", "NO_SUCH", code=1
        )
    assert "the environment has no NO_SUCH" in said


def test_the_key_is_sent_and_not_stored(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher()
    with serving(teacher) as url:
        distill(given, url, tiny_bundle, "--count", "3", "--api-key-env", "TEACHER_KEY", TEACHER_KEY="sesame")
    assert teacher.authorization == {"Bearer sesame"}
    assert not [
        path for path in (given / "run").rglob("*") if path.is_file() and b"sesame" in path.read_bytes()
    ]


def test_an_endpoint_that_is_gone_stops_the_run_and_keeps_the_answers(given: Path, tiny_bundle: Path) -> None:
    with serving(Teacher()) as url:
        distill(given, url, tiny_bundle, "--max-tokens", "3000")
    before = len(lines(given / "run" / "answers.jsonl"))
    said = distill(given, url, tiny_bundle, "--attempts", "2", code=1)
    assert "20 requests in a row failed, the last with 'connection'" in said
    assert len(lines(given / "run" / "answers.jsonl")) == before > 0


def test_a_run_is_not_resumed_with_another_teacher_and_not_by_two(given: Path, tiny_bundle: Path) -> None:
    teacher = Teacher(lambda asked, before: "hang")
    with serving(teacher) as url:
        first = subprocess.Popen(
            command(given, url, tiny_bundle, "--timeout", "200"), stderr=subprocess.DEVNULL
        )
        while not teacher.log:
            time.sleep(0.02)
        assert "in use by another process" in distill(given, url, tiny_bundle, code=1)
        first.kill()
        first.wait()
        said = distill(given, url, tiny_bundle, "--temperature", "0.1", code=1)
    assert "holds a run with other teacher" in said


def test_a_template_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(TASK.replace('"expand"', '"story"'))
    with pytest.raises(TrainingError, match=r"odd\.toml: 'story' of 'image' is no task"):
        templates.load_all(tmp_path)
    (tmp_path / "odd.toml").write_text(TASK.replace("share = 1.0", ""))
    with pytest.raises(TrainingError, match=r"odd\.toml is no task template"):
        templates.load_all(tmp_path)


def test_examples_come_in_the_length_that_is_asked_for() -> None:
    for template in templates.load_all():
        for length in template.lengths:
            chat = template.messages("a fox", length)
            shown = [len(message["content"].split()) for message in chat if message["role"] == "assistant"]
            assert sum(shown) / len(shown) == pytest.approx(length, rel=0.3)
            assert chat[-1] == {"role": "user", "content": "a fox"}


FOX = "A red fox rests under a tall pine beside a frozen stream. Pale light falls on the drifts."


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [
        (FOX, FOX, ""),
        (f'Sure! Here is a description: "{FOX}"', FOX, ""),
        (f'Sure! Here is a description: "{FOX}', FOX, ""),
        (f'{FOX} A sign says "No entry. Keep out.', FOX, ""),
        (f'{FOX} A sign says "No entry".', f'{FOX} A sign says "No entry".', ""),
        (f"Here's the prompt: {FOX}\n\nLet me know if you want more.", FOX, ""),
        (FOX + " The tree is also a", FOX, ""),
        (FOX + " Pale light falls on the drifts.", FOX, ""),
        (FOX + " You can hear the wind.", FOX, ""),
        (FOX + " The sound of water fills the air.", FOX, ""),
        ("I'm sorry, but I can't help with that.", "", "refusal"),
        ("As an AI language model, I have no eyes.", "", "refusal"),
        ("", "", "empty"),
        ("**Fox**: a red fox <b>rests</b>.", "", "markup or foreign"),
        ("A fox in the snow.", "", "nothing left"),
        ("A fox is a small animal that people keep on farms in winter.", "", "explanation"),
        (
            "A young wolf waits there. A red fox stands in deep snow at the edge of a forest.",
            "",
            "copy of an example",
        ),
    ],
)
def test_an_answer_is_cut_back_to_what_can_be_used(
    tmp_path: Path, answer: str, text: str, reason: str
) -> None:
    (tmp_path / "task.toml").write_text(TASK)
    verdict = judge(answer, templates.load(tmp_path / "task.toml"), "a fox in the snow")
    assert (verdict.text, verdict.reason) == (text, reason)


def test_a_port_that_nobody_listens_on_is_no_endpoint(given: Path, tiny_bundle: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert "is " + url in distill(given, url, tiny_bundle, "--attempts", "1", code=1)
